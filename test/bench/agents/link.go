// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

// How a stock agent finds a server and comes back to it.
const (
	lookupPath = "/registry/detail?name=hids_svr_grpc&count=10"
	// maxLookupBytes bounds what is read of an answer.
	maxLookupBytes = 1 << 20
	// lookupKept is how long Go's HTTP client keeps a connection.
	lookupKept = 90 * time.Second
	// dialWait is what each address gets.
	dialWait = 15 * time.Second
	// maxReuses is how often a channel serves again before SD is asked.
	maxReuses = 5
	// maxFailures to get any channel, in a row, end the agent; restartWait is how
	// long systemd takes to start it again.
	maxFailures = 7
	restartWait = 45 * time.Second
	// settled is how long a stream must last to count: a server may take it and
	// refuse what comes over it.
	settled = time.Second
)

// link is an agent's gRPC channel: after a stream's end it is IDLE, if the
// connection was lost, or READY, and serves again; an attempt that failed makes it
// TRANSIENT_FAILURE, and SD is asked. Where a stock agent opens another stream on
// a connection that is left, this one makes a new connection to the same address.
type link struct {
	addr     string // of the channel; "" when there is none
	reuses   int
	failures int // to get a channel, in a row
}

// connect opens a stream as a stock agent does that waited long enough. The error
// is errGaveUp after the last failure.
func (g *agent) connect(ctx context.Context) (*stream, error) {
	o, l := &g.all.opts, &g.link
	if len(o.SD) == 0 {
		return open(ctx, &g.dialer, o.Addr, o.TLS)
	}
	if l.addr != "" && l.reuses < maxReuses {
		s, err := g.dial(ctx, l.addr)
		if l.reuses++; err != nil {
			l.addr = ""
		}
		return s, err
	}
	l.addr = ""
	addrs, err := g.lookup(ctx)
	for _, addr := range addrs {
		s, dialErr := g.dial(ctx, addr)
		if dialErr == nil {
			*l = link{addr: addr}
			return s, nil
		}
		g.all.counters.passed.Add(1)
		err = errors.Join(err, dialErr)
	}
	l.failures++
	g.all.failedInARow(l.failures)
	if l.failures == maxFailures {
		l.failures = 0
		return nil, errors.Join(errGaveUp, err)
	}
	return nil, err
}

// failedInARow notes the most failures in a row.
func (a *Agents) failedInARow(n int) {
	for most := a.counters.mostFailures.Load(); int64(n) > most && !a.counters.mostFailures.CompareAndSwap(most, int64(n)); {
		most = a.counters.mostFailures.Load()
	}
}

var errGaveUp = errors.New("seven failures to connect")

func (g *agent) dial(ctx context.Context, addr string) (*stream, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	return open(ctx, &g.dialer, addr, g.all.opts.TLS)
}

// lookup asks a random SD, and the others when it cannot be reached, as a name
// with several addresses is resolved. There is no time limit.
func (g *agent) lookup(ctx context.Context) (addrs []string, err error) {
	sd := g.all.opts.SD
	var failures []error
	for _, i := range rand.Perm(len(sd)) {
		if addrs, err = g.ask(ctx, sd[i]); err == nil {
			return addrs, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

func (g *agent) ask(ctx context.Context, base string) (addrs []string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+lookupPath, nil)
	if err != nil {
		return nil, err
	}
	res, err := g.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var answer struct {
		Data []struct {
			IP   string
			Port int
		}
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxLookupBytes)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("SD %s: %w", base, err)
	}
	for _, d := range answer.Data {
		addrs = append(addrs, net.JoinHostPort(d.IP, strconv.Itoa(d.Port)))
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("SD %s names nobody", base)
	}
	return addrs, nil
}

// Gap is the time that an agent was without a stream, between one that lasted a
// second and the next one that did.
type Gap struct {
	Began    time.Time
	Took     time.Duration
	From, To string // addresses
}

// Gaps are those that have ended.
func (a *Agents) Gaps() []Gap {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Gap(nil), a.gaps...)
}

// opened notes that a stream is there. The returned function notes its end.
func (g *agent) opened() (ended func()) {
	at, addr := time.Now(), g.link.addr
	g.lasting.Add(1)
	timer := time.AfterFunc(settled, func() {
		defer g.lasting.Done()
		g.all.mu.Lock()
		defer g.all.mu.Unlock()
		if !g.lostAt.IsZero() {
			g.all.gaps = append(g.all.gaps, Gap{Began: g.lostAt, Took: at.Sub(g.lostAt), From: g.lostFrom, To: addr})
		}
		g.link.failures = 0
	})
	return func() {
		if timer.Stop() {
			g.lasting.Done()
			return
		}
		g.lasting.Wait()
		g.lostAt, g.lostFrom = time.Now(), addr
	}
}
