// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"muster/fleet"
	"muster/httpapi"
	"muster/internal/apiv1"
	"muster/recordlog"
)

const (
	// leaderlessAfter is how long a node without a leader stays ready.
	leaderlessAfter = 10 * time.Second
	// fullShare of the records' memory counts as full.
	fullShare = 0.95
)

// starting says what a node that is not ready waits for.
func (n *Node) starting() string {
	if why := n.waits.Load(); why != nil {
		return "starting, waiting for " + *why
	}
	return "starting"
}

// unreadable says why the replicated state may not be shown yet, or "".
func (n *Node) unreadable() string {
	wrong := n.store.Status().Quarantined
	switch {
	case !n.store.Ready():
		return n.starting()
	case n.store.Removed(n.trust.serverID):
		return errRemoved(n).Error()
	case wrong != "":
		return "quarantined: " + wrong
	}
	return n.apart.fork()
}

// health judges the node for probes and people. It does not block.
func (n *Node) health() httpapi.Health {
	h := n.fitness()
	if n.shedding.drained.Load() {
		h.Ready = false
		h.Reasons = append(h.Reasons, fmt.Sprintf("draining, %d agents are left: undo it by: muster node undrain %s", n.agents.SessionCount(), n.cfg.NodeID))
	}
	return h
}

// fitness judges whether the node could take agents, if it were not to be emptied.
func (n *Node) fitness() httpapi.Health {
	select {
	case <-n.ready:
	default:
		return httpapi.Health{Reasons: []string{n.starting()}}
	}
	var h httpapi.Health
	if n.draining.Load() {
		h.Reasons = append(h.Reasons, "stopping")
	}
	store := n.store.Status()
	contact := time.Duration(store.LeaderContactAgeMS) * time.Millisecond
	switch {
	case n.store.Removed(store.ServerID):
		h.Reasons = append(h.Reasons, errRemoved(n).Error())
	case contact > leaderlessAfter:
		h.Reasons = append(h.Reasons, fmt.Sprintf("for %d s without %s", int(contact.Seconds()), n.whyNoLeader()))
	case store.Quarantined != "":
		h.Degraded = append(h.Degraded, "quarantined, config and tasks wait: "+store.Quarantined)
	case !store.Current:
		h.Degraded = append(h.Degraded, "not current with the leader: config and tasks wait")
	}
	if kafka := n.records.Status(); !kafka.Up {
		away := fmt.Sprintf("kafka away for %d s", int(time.Since(kafka.AwaySince).Seconds()))
		if kafka.Failing < kafka.Partitions {
			away += fmt.Sprintf(" (%d of %d partitions)", kafka.Failing, kafka.Partitions)
		}
		switch {
		case kafka.SpoolError != "" && n.full():
			h.Reasons = append(h.Reasons, "records are full: "+away+"; "+kafka.SpoolError)
		case kafka.SpoolError != "":
			h.Degraded = append(h.Degraded, away, kafka.SpoolError)
		case n.full() && kafka.Spooling == 0:
			h.Reasons = append(h.Reasons, "records are full: "+away)
		default:
			h.Degraded = append(h.Degraded, away)
		}
	} else if kafka.DiskHangs && n.full() {
		h.Reasons = append(h.Reasons, "records are full: "+kafka.SpoolError)
	} else if kafka.DiskHangs {
		h.Degraded = append(h.Degraded, kafka.SpoolError)
	}
	if fork := n.apart.fork(); fork != "" {
		h.Reasons = append(h.Reasons, fork)
	}
	if by := n.apart.saysRemoved(); by != "" {
		h.Degraded = append(h.Degraded, removedBy(by))
	}
	h.Ready = len(h.Reasons) == 0
	return h
}

func (n *Node) full() bool {
	return float64(n.records.Ledger().PendingBytes) > fullShare*recordlog.DefaultMaxPendingBytes
}

// load is what the node gossips each second.
func (n *Node) load() fleet.Load {
	store, kafka, ledger := n.store.Status(), n.records.Status(), n.records.Ledger()
	cpu, memory := n.usage.read(time.Now())
	n.applied.note(time.Now(), n.othersApplied())
	return fleet.Load{
		Sessions:         clamp32(uint64(n.agents.StreamCount())),
		Limit:            clamp32(uint64(n.limit)),
		CPUPermille:      cpu,
		MemoryPermille:   memory,
		RecordsPerSecond: clamp32(uint64(n.rate.sample(time.Now(), ledger.Received))),
		KafkaBacklog:     clamp32(ledger.Pending + ledger.Spooled),
		Draining:         n.draining.Load() || n.shedding.drained.Load(),
		Ready:            n.fitness().Ready,
		KafkaAway:        !kafka.Up,
		Leaderless:       store.Leader == "",
		Applied:          store.Applied,
	}
}

func clamp32(v uint64) uint32 { return uint32(min(v, math.MaxUint32)) }

// report is what GET /v1/status adds to the health.
func (n *Node) report() httpapi.NodeReport {
	ledger := n.records.Ledger()
	dropped := make(map[string]uint64, len(ledger.Dropped))
	for reason, count := range ledger.Dropped {
		dropped[string(reason)] = count
	}
	r := httpapi.NodeReport{
		StartedAt:  n.started,
		AgentLimit: n.limit,
		Records: apiv1.Ledger{
			PerSecond: n.rate.value(), Received: ledger.Received, Delivered: ledger.Delivered,
			Pending: ledger.Pending, Spooled: ledger.Spooled, Refused: ledger.Refused, Dropped: dropped,
			Recovered: ledger.Recovered, SpooledBytes: ledger.SpooledBytes, PossibleDuplicates: ledger.PossibleDuplicates,
		},
		Kafka: n.kafkaReport(),
	}
	for name, end := range n.trust.ends() {
		r.Certificates = append(r.Certificates, apiv1.Certificate{Name: name, NotAfter: end})
	}
	slices.SortFunc(r.Certificates, func(a, b apiv1.Certificate) int { return strings.Compare(a.Name, b.Name) })
	addrs := n.Addrs()
	add := func(name string, list ...string) {
		for _, a := range list {
			r.Listeners = append(r.Listeners, apiv1.Listener{Name: name, Addr: a})
		}
	}
	add("sd", addrs.SD...)
	add("http", addrs.HTTP...)
	add("https", addrs.HTTPS)
	add("agents", addrs.Agent)
	add("nodes", addrs.Node)
	add("gossip", addrs.Gossip)
	return r
}

func (n *Node) kafkaReport() apiv1.Kafka {
	s := n.records.Status()
	k := apiv1.Kafka{
		State: "ok", Brokers: s.Brokers, Topic: n.cfg.Kafka.Topic,
		Embedded: n.cfg.Kafka.embeddedAt(n.cfg.NodeID) != "", Replicated: n.cfg.Kafka.embeddedAt(n.cfg.NodeID) == "", Detail: s.LastError,
	}
	if !s.Up {
		k.State = "away"
		k.AwaySeconds = int64(time.Since(s.AwaySince).Seconds())
	}
	return k
}

// Sessions counts the agents' streams that the node holds.
func (n *Node) Sessions() int { return n.agents.SessionCount() }

// Ledger accounts for the records that the node received.
func (n *Node) Ledger() recordlog.Ledger { return n.records.Ledger() }

// IssueFleet makes a certificate that many agents may share; the node must be ready.
func (n *Node) IssueFleet(name string) (httpapi.Bundle, error) { return n.trust.IssueFleet(name) }
