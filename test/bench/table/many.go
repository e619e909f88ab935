// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"fmt"
	"time"
)

const (
	idleAgents = 10_000
	idleRamp   = 20 * time.Second
	idleSettle = 30 * time.Second
	idleLonger = 150 * time.Second // until the runtime has given back what connecting took
	beatAgents = 5000
	beatEvery  = 10 * time.Second
	beatWindow = 20 * time.Second
	pushAgents = 15_000
	pushRamp   = 30 * time.Second
	pushWithin = 60 * time.Second
	// readings are averaged, as garbage comes and goes.
	readings     = 10
	readingsOver = 10 * time.Second
)

// idleRow measures what an agent costs that says nothing but heartbeats.
func idleRow(ctx context.Context, e *Env) ([]Figure, error) {
	idle := Figure{Name: "memory for each idle agent of 10,000", Unit: "KB anonymous", Reach: 50, Note: "mutual TLS, heartbeats each 60 s"}
	for _, start := range []func(context.Context, *brokerChild) (*server, error){
		func(_ context.Context, b *brokerChild) (*server, error) { return e.floor(b) }, e.muster,
	} {
		each, err := e.memoryEach(ctx, start)
		if err != nil {
			return nil, err
		}
		if len(idle.Floor) == 0 {
			idle.Floor = append(idle.Floor, each)
		} else {
			idle.Muster = append(idle.Muster, each)
		}
		e.end()
	}
	return []Figure{idle}, nil
}

func (e *Env) memoryEach(ctx context.Context, start func(context.Context, *brokerChild) (*server, error)) (float64, error) {
	b, err := e.broker()
	if err != nil {
		return 0, err
	}
	s, err := start(ctx, b)
	if err != nil {
		return 0, err
	}
	before, err := meanRSS(ctx, s)
	if err != nil {
		return 0, err
	}
	l, err := e.load(s, loadOptions{agents: idleAgents, ramp: idleRamp})
	if err != nil {
		return 0, err
	}
	if err := l.connected(ctx, idleRamp+2*connectWithin); err != nil {
		return 0, err
	}
	settle := idleSettle
	if e.opts.Long {
		settle = idleLonger
	}
	if err := pause(ctx, settle); err != nil {
		return 0, err
	}
	if _, err := e.window(ctx, "idle", s, b, time.Second); err != nil {
		return 0, err
	}
	after, err := meanRSS(ctx, s)
	if err != nil {
		return 0, err
	}
	connected, err := l.stillConnected()
	if err != nil {
		return 0, err
	}
	stats, err := l.stats()
	if err != nil {
		return 0, err
	}
	e.log.Info("measured", "what", "idle", "server", s.Name, "before_mb", number(before/1e6), "after_mb", number(after/1e6),
		"connected", connected, "streams_ended", stats.Ended, "ending", stats.Ending)
	return (after - before) / connected / 1e3, nil
}

// meanRSS is the mean of some readings.
func meanRSS(ctx context.Context, s *server) (float64, error) {
	var sum int64
	for range readings {
		rss, err := s.RssAnon()
		if err != nil {
			return 0, err
		}
		sum += rss
		if err := pause(ctx, readingsOver/readings); err != nil {
			return 0, err
		}
	}
	return float64(sum) / readings, nil
}

// beatRow measures what a heartbeat costs, with all that a server does besides.
func beatRow(ctx context.Context, e *Env) ([]Figure, error) {
	beat := Figure{Name: "heartbeat, 5,000 agents", Unit: "µs CPU", Reach: 100}
	floor, _, err := e.beats(ctx, "floor", func(_ context.Context, b *brokerChild) (*server, error) { return e.floor(b) })
	if err != nil {
		return nil, err
	}
	muster, alone, err := e.beats(ctx, "muster", e.muster)
	if err != nil {
		return nil, err
	}
	beat.Floor, beat.Muster = floor, muster
	beat.Note = fmt.Sprintf("each %s; includes the %s ms a second that a node takes without agents", beatEvery, number(alone*1e3))
	return []Figure{beat}, nil
}

// beats returns what a heartbeat costs in each round, in µs, and the CPU seconds
// a second that the server takes without agents.
func (e *Env) beats(ctx context.Context, name string, start func(context.Context, *brokerChild) (*server, error)) (each []float64, alone float64, err error) {
	defer e.end()
	b, err := e.broker()
	if err != nil {
		return nil, 0, err
	}
	s, err := start(ctx, b)
	if err != nil {
		return nil, 0, err
	}
	quiet, err := e.window(ctx, name+"-alone", s, b, 5*time.Second)
	if err != nil {
		return nil, 0, err
	}
	l, err := e.load(s, loadOptions{agents: beatAgents, ramp: beatEvery, heartbeat: beatEvery})
	if err != nil {
		return nil, 0, err
	}
	if err := l.connected(ctx, beatEvery+2*connectWithin); err != nil {
		return nil, 0, err
	}
	if err := pause(ctx, beatEvery); err != nil {
		return nil, 0, err
	}
	for round := range e.opts.Rounds {
		before, err := l.stats()
		if err != nil {
			return nil, 0, err
		}
		got, err := e.window(ctx, fmt.Sprintf("%s-beat-%d", name, round+1), s, b, beatWindow)
		if err != nil {
			return nil, 0, err
		}
		after, err := l.stats()
		if err != nil {
			return nil, 0, err
		}
		each = append(each, got.cpu/float64(after.Heartbeats-before.Heartbeats)*1e6)
	}
	_, err = l.stillConnected()
	return each, quiet.cpu / quiet.seconds, err
}
