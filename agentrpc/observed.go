// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync/atomic"
	"unicode/utf8"

	"muster/fleet"
)

const (
	// maxPlugins and maxHeartbeatBytes bound what an agent can make a node remember.
	maxPlugins        = 128
	maxHeartbeatBytes = 64 << 10
	// reportEverySeconds is how often an unchanged agent is reported again.
	reportEverySeconds = 3600
	// Longest texts and lists of a report; longer ones are cut.
	maxFactBytes = 1 << 10
	maxNameBytes = 256
	maxAddresses = 64
)

var errBodyTooLarge = fmt.Errorf("the body is over %d bytes", maxHeartbeatBytes)

// observed is what a session's agent said of itself. Heartbeats stay encoded
// until someone asks: 20,000 idle agents should cost little.
type observed struct {
	identity  []byte // as encoded in the last message
	who       fleet.Identity
	seenAt    atomic.Int64 // set without the lock, too
	beatAt    int64
	heartbeat []byte // body of the last 1000 record that could be read
	plugins   map[string]*pluginBeat

	reported   uint64 // fingerprint of the last report, 0 if there was none
	reportedAt int64
}

type pluginBeat struct {
	at      int64
	version string
	body    []byte // of the last 1001 record
}

// noted tells what taking a message changed.
type noted struct {
	beat        bool // a 1000 record was in it
	report      *fleet.AgentReport
	undecodable int
	beatFault   error // why the fields of a 1000 record were not taken
}

// note remembers what a message says. now is in Unix seconds; known is the set
// of facts that are reported, node the name that stands in reports.
func (o *observed) note(m *message, now int64, seed maphash.Seed, facts map[string]bool, node string) noted {
	var res noted
	o.seenAt.Store(now)
	dirty := false
	if m.known == nil && !bytes.Equal(o.identity, m.identity) {
		o.identity = slices.Clone(m.identity)
		o.who = m.who()
		dirty = true
	}
	for _, n := range m.notable {
		switch n.dataType {
		case fleet.DataTypeHeartbeat:
			// The agent lives, whatever the body is.
			o.beatAt, res.beat, dirty = now, true, true
			if err := checkHeartbeat(n.body); err != nil {
				res.undecodable++
				res.beatFault = err
				continue
			}
			o.heartbeat = append(o.heartbeat[:0], n.body...)
		case fleet.DataTypePluginHeartbeat:
			if !o.notePlugin(n.body, now) {
				res.undecodable++
			}
			dirty = true
		}
	}
	if o.beatAt == 0 || !dirty {
		return res
	}
	if res.beat {
		maps.DeleteFunc(o.plugins, func(_ string, p *pluginBeat) bool { return now-p.at > fleet.OfflineAfterSeconds })
	}
	if print := o.fingerprint(seed, facts); print != o.reported || now-o.reportedAt >= reportEverySeconds {
		o.reported, o.reportedAt = print, now
		r := o.report(facts, node)
		res.report = &r
	}
	return res
}

// checkHeartbeat tells why the fields of a 1000 record cannot be kept.
func checkHeartbeat(body []byte) error {
	if len(body) > maxHeartbeatBytes {
		return errBodyTooLarge
	}
	return eachField(body, func(_, _ []byte) {})
}

// notePlugin remembers a 1001 record; false means that it is unreadable or too large.
func (o *observed) notePlugin(body []byte, now int64) bool {
	var name, version []byte
	err := eachField(body, func(k, v []byte) {
		switch string(k) {
		case "name":
			name = v
		case "pversion":
			version = v
		}
	})
	if err != nil || len(name) == 0 || len(name) > maxNameBytes || len(body) > maxHeartbeatBytes {
		return false
	}
	p := o.plugins[string(name)]
	if p == nil {
		if len(o.plugins) >= maxPlugins {
			return false
		}
		if o.plugins == nil {
			o.plugins = make(map[string]*pluginBeat)
		}
		p = &pluginBeat{}
		o.plugins[string(name)] = p
	}
	p.at = now
	p.body = append(p.body[:0], body...)
	if p.version != string(version) {
		p.version = string(clip(version, maxNameBytes))
	}
	return true
}

// fingerprint is equal while a report would say the same. It depends on no order.
func (o *observed) fingerprint(seed maphash.Seed, facts map[string]bool) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	pair := func(kind byte, k string, v []byte) uint64 {
		h.Reset()
		_ = h.WriteByte(kind)
		_, _ = h.WriteString(k)
		_ = h.WriteByte(0)
		_, _ = h.Write(v)
		return h.Sum64()
	}
	sum := pair('i', "", o.identity)
	_ = eachField(o.heartbeat, func(k, v []byte) { // it was read before: there is no error
		if facts[string(k)] {
			sum += pair('f', string(k), v)
		}
	})
	for name, p := range o.plugins {
		sum += pair('p', name, []byte(p.version))
	}
	return max(sum, 1)
}

// report describes the agent for the inventory, with bounded sizes.
func (o *observed) report(facts map[string]bool, node string) fleet.AgentReport {
	r := fleet.AgentReport{
		Identity: clipIdentity(o.who), Node: node, SeenAt: o.seenAt.Load(),
		Facts: make(map[string]string), Plugins: make(map[string]string, len(o.plugins)),
	}
	_ = eachField(o.heartbeat, func(k, v []byte) { // it was read before: there is no error
		if facts[string(k)] {
			r.Facts[string(k)] = string(clip(v, maxFactBytes))
		}
	})
	for name, p := range o.plugins {
		r.Plugins[name] = p.version
	}
	return r
}

// describe fills the parts of a snapshot that the agent said itself.
func (o *observed) describe(out *fleet.Session) {
	out.Identity = o.who.Clone()
	out.SeenAt, out.HeartbeatAt = o.seenAt.Load(), o.beatAt
	out.Heartbeat = make(map[string]string)
	if f, err := itemFields(o.heartbeat); err == nil {
		out.Heartbeat = f
	}
	out.Plugins = make(map[string]fleet.PluginHeartbeat, len(o.plugins))
	for name, p := range o.plugins {
		if f, err := itemFields(p.body); err == nil {
			out.Plugins[name] = fleet.PluginHeartbeat{At: p.at, Fields: f}
		}
	}
}

func clipIdentity(who fleet.Identity) fleet.Identity {
	text := func(s string) string { return string(clip([]byte(s), maxNameBytes)) }
	list := func(in []string) []string {
		out := make([]string, 0, min(len(in), maxAddresses))
		for _, s := range in[:min(len(in), maxAddresses)] {
			out = append(out, text(s))
		}
		return out
	}
	return fleet.Identity{
		AgentID: who.AgentID, Hostname: text(who.Hostname), Version: text(who.Version), Product: text(who.Product),
		IntranetIPv4: list(who.IntranetIPv4), ExtranetIPv4: list(who.ExtranetIPv4),
		IntranetIPv6: list(who.IntranetIPv6), ExtranetIPv6: list(who.ExtranetIPv6),
	}
}

// clip cuts a text at a rune so that it is at most limit bytes long.
func clip(text []byte, limit int) []byte {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
