// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"fmt"
	"time"

	"muster/test/bench/agents"
	"muster/test/bench/floor"
)

const (
	stormAgents = 5000
	stormWithin = 120 * time.Second
)

// stormRow lets all agents connect at once, to the floor and to Muster in turn.
func stormRow(ctx context.Context, e *Env) ([]Figure, error) {
	each := Figure{Name: "storm: 5,000 agents connect at once", Unit: "ms CPU each", Reach: 0.8}
	each.Note = "ECDSA keys of the cluster; until each has its config, the floor's until each has sent a heartbeat"
	share := Figure{Name: "storm: agents that got a config", Unit: "%", Reach: 100, AtLeast: true}
	p50 := Figure{Name: "storm: first heartbeat to config, p50", Unit: "s", Info: true}
	p99 := Figure{Name: "storm: first heartbeat to config, p99", Unit: "s", Info: true}
	most := Figure{Name: "storm: first heartbeat to config, longest", Unit: "s", Reach: 2}
	for round := range e.opts.Rounds {
		name := fmt.Sprintf("storm-%d", round+1)
		_, cpu, err := e.storm(ctx, name, func(_ context.Context, b *brokerChild) (*server, error) { return e.floor(b) })
		if err != nil {
			return nil, err
		}
		e.end()
		each.Floor = append(each.Floor, cpu/stormAgents*1e3)
		got, cpu, err := e.storm(ctx, name, e.muster)
		if err != nil {
			return nil, err
		}
		e.end()
		each.Muster = append(each.Muster, cpu/stormAgents*1e3)
		share.Muster = append(share.Muster, float64(got.Configured)/stormAgents*100)
		p50.Muster = append(p50.Muster, got.ConfigP50)
		p99.Muster = append(p99.Muster, got.ConfigP99)
		most.Muster = append(most.Muster, got.ConfigMax)
	}
	return []Figure{each, share, p50, p99, most}, nil
}

// storm returns what the agents saw and the CPU that the server took.
func (e *Env) storm(ctx context.Context, name string, start func(context.Context, *brokerChild) (*server, error)) (got agents.Stats, cpu float64, err error) {
	b, err := e.broker()
	if err != nil {
		return got, 0, err
	}
	s, err := start(ctx, b)
	if err != nil {
		return got, 0, err
	}
	before, err := s.CPU()
	if err != nil {
		return got, 0, err
	}
	l, err := e.load(s, loadOptions{agents: stormAgents})
	if err != nil {
		return got, 0, err
	}
	profiled := e.profileOf(ctx, name, s, 10*time.Second)
	defer profiled()
	began := time.Now()
	waiting := await(ctx, stormWithin, func() error {
		if got, err = l.stats(); err != nil {
			return err
		}
		served, err := s.served(got)
		if err != nil {
			return err
		}
		if served < stormAgents {
			return notYet("%d of %d agents are served; %d failures to connect, the last one: %s", served, stormAgents, got.Failures, got.Failure)
		}
		return nil
	})
	if waiting != nil { // a figure too: the share tells
		e.log.Warn("storm is not over", "error", waiting)
	}
	if ctx.Err() != nil {
		return got, 0, ctx.Err()
	}
	after, err := s.CPU()
	e.log.Info("measured", "what", name, "server", s.Name, "configured", got.Configured, "after_s", number(time.Since(began).Seconds()),
		"connect_failures", got.Failures, "last_failure", got.Failure, "streams_ended", got.Ended, "longest_s", number(got.ConfigMax))
	return got, after - before, err
}

// served counts the agents that have a config, or, as the floor has none to
// give, those that it has heard.
func (s *server) served(got agents.Stats) (int64, error) {
	if s.child == nil {
		return got.Configured, nil
	}
	var stats floor.Stats
	err := s.child.Ask("stats", &stats)
	return stats.Spoken, err
}
