// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"muster/test/bench/agents"
	"muster/test/bench/broker"
)

const (
	faultAgents = 200
	faultBatch  = 10
	calm        = 5 * time.Second // before and after
	awayShort   = 20 * time.Second
	awayLong    = 5 * time.Minute
	termRate    = 10_000
	longRate    = 20_000
	memoryReach = 300 // MB
	doneWithin  = 5 * time.Minute
)

func away10Row(ctx context.Context, e *Env) ([]Figure, error) { return e.away(ctx, 10_000) }
func away40Row(ctx context.Context, e *Env) ([]Figure, error) { return e.away(ctx, 40_000) }

// away lets Kafka refuse for 20 s, and counts what never comes.
func (e *Env) away(ctx context.Context, rate float64) ([]Figure, error) {
	b, s, l, err := e.numbered(ctx, rate)
	if err != nil {
		return nil, err
	}
	memory := watch(s)
	stopped := false
	defer func() {
		if !stopped {
			memory()
		}
	}()
	for _, step := range []struct {
		command string
		d       time.Duration
	}{{"", calm}, {"refuse", awayShort}, {"return", calm}} {
		if step.command != "" {
			if err := b.Ask(step.command, nil); err != nil {
				return nil, err
			}
		}
		if err := pause(ctx, step.d); err != nil {
			return nil, err
		}
	}
	sent, err := l.stop()
	if err != nil {
		return nil, err
	}
	unique, err := e.drained(ctx, b, sent.Numbered)
	if err != nil {
		return nil, err
	}
	stopped = true
	most := memory()
	got, err := b.stats()
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("Kafka away 20 s, %s records/s", number(rate))
	return []Figure{
		{Name: what + ": lost", Unit: "records", Muster: []float64{float64(sent.Numbered - unique)}, Note: e.seen(sent, got)},
		{Name: what + ": most memory", Unit: "MB anonymous", Muster: []float64{float64(most) / 1e6}, Reach: memoryReach},
	}, nil
}

// seen says what else happened to numbered records.
func (e *Env) seen(sent agents.Stats, got broker.Stats) string {
	return fmt.Sprintf("of %s sent; %s twice, %s out of order, %s more not sent in time, %s streams ended", number(float64(sent.Numbered)),
		number(float64(got.Marked-got.Unique)), number(float64(got.Disorder)), number(float64(sent.Skipped)), number(float64(sent.Ended)))
}

// numbered starts a node under a steady load whose records are all numbered.
func (e *Env) numbered(ctx context.Context, rate float64) (*brokerChild, *server, *load, error) {
	b, err := e.broker()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := b.Ask("look", nil); err != nil {
		return nil, nil, nil, err
	}
	s, err := e.muster(ctx, b)
	if err != nil {
		return nil, nil, nil, err
	}
	l, err := e.load(s, loadOptions{agents: faultAgents, batch: faultBatch, rate: rate, numbered: 1, ramp: time.Second})
	if err != nil {
		return nil, nil, nil, err
	}
	return b, s, l, l.connected(ctx, connectWithin)
}

// termRow ends a node under load.
func termRow(ctx context.Context, e *Env) ([]Figure, error) {
	lost := Figure{Name: "SIGTERM at 10,000 records/s: lost", Unit: "records", Note: "received less delivered, spooled and refused; what the broker counted is the same"}
	took := Figure{Name: "SIGTERM at 10,000 records/s: until the process ends", Unit: "s", Info: true}
	for range e.opts.Rounds {
		b, s, _, err := e.numbered(ctx, termRate)
		if err != nil {
			return nil, err
		}
		if err := pause(ctx, calm); err != nil {
			return nil, err
		}
		l, d, err := terminate(s.node)
		if err != nil {
			return nil, err
		}
		got, err := b.stats()
		if err != nil {
			return nil, err
		}
		if !l.balanced() || got.Records != l.Delivered {
			return nil, fmt.Errorf("ledger %+v, and the broker has %d records", l, got.Records)
		}
		e.log.Info("measured", "what", "term", "received", l.Received, "delivered", l.Delivered, "spooled", l.Spooled, "dropped", l.dropped())
		lost.Muster = append(lost.Muster, float64(l.Received-l.Delivered-l.Spooled-l.Refused))
		took.Muster = append(took.Muster, d.Seconds())
		e.end()
	}
	return []Figure{lost, took}, nil
}

// terminate ends a node and reads its last ledger.
func terminate(n *node) (ledger, time.Duration, error) {
	began := time.Now()
	if err := n.process.Signal(syscall.SIGTERM); err != nil {
		return ledger{}, 0, fmt.Errorf("end the node: %w", err)
	}
	if err := n.process.End(); err != nil {
		return ledger{}, 0, err
	}
	l, err := n.lastLedger()
	return l, time.Since(began), err
}

// awayLongRow lets Kafka refuse for five minutes, with a restart of the node in
// between, and counts what never comes of all that the node has received.
func awayLongRow(ctx context.Context, e *Env) ([]Figure, error) {
	b, s, load, err := e.numbered(ctx, longRate)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, calm); err != nil {
		return nil, err
	}
	if err := b.Ask("refuse", nil); err != nil {
		return nil, err
	}
	first := watch(s)
	err = pause(ctx, awayLong/2)
	most := first()
	if err != nil {
		return nil, err
	}
	before, took, err := terminate(s.node)
	if err != nil {
		return nil, err
	}
	if err := e.startNode(ctx, s.node); err != nil {
		return nil, err
	}
	s.Process = s.node.process
	second := watch(s)
	got, sent, after, err := e.returns(ctx, b, s.node, load)
	most = max(most, second())
	if err != nil {
		return nil, err
	}
	lost := before.Received + after.Received - after.Recovered - after.Refused - before.Refused - (got.Records - (got.Marked - got.Unique))
	e.log.Info("measured", "what", "away300", "first_life", fmt.Sprintf("%+v", before), "second_life", fmt.Sprintf("%+v", after), "first_stop", took, "broker", got.Records)
	const what = "Kafka away 5 min, 20,000 records/s, SIGTERM in between"
	return []Figure{
		{Name: what + ": lost", Unit: "records", Muster: []float64{float64(lost)}, Note: e.seen(sent, got)},
		{Name: what + ": most memory", Unit: "MB anonymous", Muster: []float64{float64(most) / 1e6}, Reach: memoryReach},
	}, nil
}

// returns lets Kafka come back to a node that was started anew, waits until that
// has delivered everything, and ends it.
func (e *Env) returns(ctx context.Context, b *brokerChild, n *node, l *load) (got broker.Stats, sent agents.Stats, last ledger, err error) {
	if err = pause(ctx, awayLong/2); err != nil {
		return
	}
	if err = b.Ask("return", nil); err != nil {
		return
	}
	if err = pause(ctx, calm); err != nil {
		return
	}
	if sent, err = l.stop(); err != nil {
		return
	}
	err = await(ctx, doneWithin, func() error {
		now, err := n.status(ctx)
		if err != nil {
			return err
		}
		if now.Pending+now.Spooled > 0 {
			return notYet("%d records are pending and %d spooled", now.Pending, now.Spooled)
		}
		return nil
	})
	if err != nil {
		return
	}
	if last, _, err = terminate(n); err != nil {
		return
	}
	got, err = b.stats()
	return
}
