// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// SoakOptions say how long to hold how much.
type SoakOptions struct {
	Self, Muster string
	Agents       int
	Rate         float64 // records a second of all agents
	Duration     time.Duration
	Every        time.Duration // between two samples
	Profile      string
	Logger       *slog.Logger
	Out          io.Writer // the samples and the verdict
}

const (
	soakSteps = 3 // in which the agents come
	soakBatch = 10
	// soakGrowth is how much of its mean the memory may grow by, over the second
	// half of the time.
	soakGrowth = 0.03
	// soakGoroutines is how far the goroutines of a session may differ between
	// any two samples.
	soakGoroutines = 0.05
)

// sample is what is read from a node at once.
type sample struct {
	at                   time.Duration
	rss                  float64
	goroutines, sessions float64
	ledger               ledger
}

// Soak holds agents and samples the node. The error says what grew, or what
// could not be done.
func Soak(ctx context.Context, o SoakOptions) error {
	if o.Agents < soakSteps || o.Rate <= 0 || o.Every <= 0 || o.Duration < 6*o.Every {
		return fmt.Errorf("%d agents, %g records/s, %s in steps of %s: too little", o.Agents, o.Rate, o.Duration, o.Every)
	}
	e, err := newEnv(Options{Self: o.Self, Muster: o.Muster, Profile: o.Profile, Logger: o.Logger, Rounds: 1, Window: time.Second})
	if err != nil {
		return err
	}
	err = e.soak(ctx, o)
	e.end()
	if err != nil {
		return fmt.Errorf("%w (logs are in %s)", err, e.dir)
	}
	return e.close()
}

func (e *Env) soak(ctx context.Context, o SoakOptions) error {
	b, err := e.broker()
	if err != nil {
		return err
	}
	s, err := e.muster(ctx, b)
	if err != nil {
		return err
	}
	began := time.Now()
	alone, err := read(ctx, s, began)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(o.Out, "%8s %10s %11s %9s %15s %12s %9s %9s\n", "time", "RssAnon MB", "goroutines", "sessions", "per session", "received", "pending", "spooled")
	e.print(o.Out, alone, alone)
	steps := []sample{alone}
	var loads []*load
	for i := range soakSteps {
		l, err := e.soakStep(ctx, s, o, i)
		if err != nil {
			return err
		}
		loads = append(loads, l)
		now, err := read(ctx, s, began)
		if err != nil {
			return err
		}
		e.print(o.Out, now, alone)
		steps = append(steps, now)
	}
	var held []sample
	for end := time.Now().Add(o.Duration); time.Now().Before(end); {
		if err := pause(ctx, o.Every); err != nil {
			return err
		}
		now, err := read(ctx, s, began)
		if err != nil {
			return err
		}
		e.print(o.Out, now, alone)
		held = append(held, now)
	}
	if e.opts.Profile != "" {
		e.profile(ctx, "soak", s.pprof, 10*time.Second)
	}
	faults := judge(o, steps, held)
	faults = append(faults, e.soakEnd(s, b, loads)...)
	for _, f := range faults {
		_, _ = fmt.Fprintln(o.Out, "FAULT:", f)
	}
	e.summary(o.Out, steps, held)
	return errors.Join(faults...)
}

// soakStep adds a part of the agents and lets them settle.
func (e *Env) soakStep(ctx context.Context, s *server, o SoakOptions, i int) (*load, error) {
	first, next := o.Agents*i/soakSteps, o.Agents*(i+1)/soakSteps
	l, err := e.load(s, loadOptions{
		agents: next - first, first: first, batch: soakBatch, rate: o.Rate * float64(next-first) / float64(o.Agents), ramp: 20 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	if err := l.connected(ctx, 3*connectWithin); err != nil {
		return nil, err
	}
	return l, pause(ctx, o.Every)
}

// read samples a node.
func read(ctx context.Context, s *server, began time.Time) (sample, error) {
	rss, err := s.RssAnon()
	if err != nil {
		return sample{}, err
	}
	values, err := metrics(ctx, s.node, "go_goroutines", "muster_agentrpc_sessions")
	if err != nil {
		return sample{}, err
	}
	l, err := s.node.status(ctx)
	return sample{
		at: time.Since(began), rss: float64(rss), goroutines: values["go_goroutines"], sessions: values["muster_agentrpc_sessions"], ledger: l,
	}, err
}

// metrics reads those of a node that have no labels.
func metrics(ctx context.Context, n *node, names ...string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.sd+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer res.Body.Close()
	values := make(map[string]float64)
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			values[name] = v
		}
	}
	for _, name := range names {
		if _, ok := values[name]; !ok {
			return nil, fmt.Errorf("the node has no metric %s", name)
		}
	}
	return values, lines.Err()
}

// perSession is how many goroutines a session has.
func perSession(s, alone sample) float64 {
	if s.sessions == 0 {
		return 0
	}
	return (s.goroutines - alone.goroutines) / s.sessions
}

// judge finds what is not as it should be.
func judge(o SoakOptions, steps, held []sample) []error {
	var faults []error
	alone, full := steps[0], steps[len(steps)-1]
	for _, s := range append(steps[1:len(steps):len(steps)], held...) {
		if d := perSession(s, alone) - perSession(full, alone); math.Abs(d) > soakGoroutines {
			faults = append(faults, fmt.Errorf("at %s a session has %.3f goroutines, at first %.3f", s.at.Round(time.Second), perSession(s, alone), perSession(full, alone)))
		}
		if !s.ledger.balanced() {
			faults = append(faults, fmt.Errorf("at %s the ledger does not balance: %+v", s.at.Round(time.Second), s.ledger))
		}
	}
	for _, s := range held {
		if int(s.sessions) != o.Agents {
			faults = append(faults, fmt.Errorf("at %s there are %.0f sessions of %d agents", s.at.Round(time.Second), s.sessions, o.Agents))
		}
	}
	if g := growth(held[len(held)/2:]); g > soakGrowth {
		faults = append(faults, fmt.Errorf("memory grew by %.1f %% over the second half", g*100))
	}
	return faults
}

// growth is that of the line through the samples' memory, from the first to the
// last, as a part of the mean.
func growth(all []sample) float64 {
	var n, sx, sy, sxx, sxy float64
	for _, s := range all {
		x := s.at.Seconds()
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+s.rss, sxx+x*x, sxy+x*s.rss
	}
	if d := n*sxx - sx*sx; d > 0 {
		slope := (n*sxy - sx*sy) / d
		return slope * (all[len(all)-1].at - all[0].at).Seconds() / (sy / n)
	}
	return 0
}

// soakEnd ends the agents and the node, and compares their counts.
func (e *Env) soakEnd(s *server, b *brokerChild, loads []*load) []error {
	var faults []error
	var sent, ended int64
	for _, l := range loads {
		got, err := l.stop()
		if err != nil {
			return append(faults, err)
		}
		sent += got.Records + got.Heartbeats
		if got.Failures > 0 { // a busy machine may be late for a handshake
			e.log.Warn("agents had to connect again", "failures", got.Failures, "last", got.Failure)
		}
		if ended += got.Ended; got.Ended > 0 {
			e.log.Warn("streams ended", "count", got.Ended, "last", got.Ending)
		}
	}
	last, _, err := terminate(s.node)
	if err != nil {
		return append(faults, err)
	}
	got, err := b.stats()
	if err != nil {
		return append(faults, err)
	}
	if ended > 0 { // what was on its way to the node then was not received
		return append(faults, fmt.Errorf("%d streams ended before their time", ended))
	}
	if last.Received != sent || last.Delivered != sent || got.Records != sent {
		faults = append(faults, fmt.Errorf("%d records were sent, the broker has %d, and the ledger says %+v", sent, got.Records, last))
	}
	return faults
}

func (e *Env) print(w io.Writer, s, alone sample) {
	_, _ = fmt.Fprintf(w, "%8s %10.1f %11.0f %9.0f %15.3f %12d %9d %9d\n", s.at.Round(time.Second), s.rss/1e6, s.goroutines, s.sessions, perSession(s, alone),
		s.ledger.Received, s.ledger.Pending, s.ledger.Spooled)
}

func (e *Env) summary(w io.Writer, steps, held []sample) {
	alone, half := steps[0], held[len(held)/2:]
	last := held[len(held)-1]
	_, _ = fmt.Fprintf(w, "memory: %.1f MB alone, %.1f MB with %.0f sessions (%.1f KB each), %+.1f %% over the second half\n",
		alone.rss/1e6, last.rss/1e6, last.sessions, (last.rss-alone.rss)/max(last.sessions, 1)/1e3, growth(half)*100)
	_, _ = fmt.Fprintf(w, "goroutines: %.0f + %.3f for each session\n", alone.goroutines, perSession(last, alone))
}
