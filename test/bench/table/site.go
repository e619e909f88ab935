// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"muster/internal/apiclient"
	"muster/test/bench/agents"
)

const (
	siteAgents = 15_000
	// sitePerGenerator leaves room for a look-up's connection beside each agent's.
	sitePerGenerator = 5000
	siteWithin       = 100 * time.Second
	// siteReach is the time to a stock agent's seventh failure, if each fails at once.
	siteReach = 30
	// siteQueries ask each node at the same time.
	siteQueries = 4
	siteSettle  = 30 * time.Second
)

func siteRow(ctx context.Context, e *Env) ([]Figure, error)  { return e.site(ctx, 1) }
func site3Row(ctx context.Context, e *Env) ([]Figure, error) { return e.site(ctx, 3) }

// siteFigures are those of one kind of storm.
type siteFigures struct{ longest, p99, failures, exits, cpu Figure }

func newSiteFigures(what string) *siteFigures {
	return &siteFigures{
		longest:  Figure{Name: what + ": longest way to a config", Unit: "s", Reach: siteReach},
		p99:      Figure{Name: what + ": p99 of them", Unit: "s", Info: true},
		failures: Figure{Name: what + ": most failures in a row of an agent", Unit: "", Reach: 6},
		exits:    Figure{Name: what + ": agents that gave up, or came not in time", Unit: "", Reach: 0},
		cpu:      Figure{Name: what + ": all nodes, for each agent", Unit: "ms CPU", Info: true},
	}
}

func (f *siteFigures) add(s agents.Stats, cpu float64) {
	f.longest.Muster = append(f.longest.Muster, s.ServedMax)
	f.p99.Muster = append(f.p99.Muster, s.ServedP99)
	f.failures.Muster = append(f.failures.Muster, float64(s.MostFailures))
	f.exits.Muster = append(f.exits.Muster, float64(siteAgents-s.Configured))
	f.cpu.Muster = append(f.cpu.Muster, cpu/siteAgents*1e3)
}

func (f *siteFigures) all() []Figure {
	return []Figure{f.longest, f.p99, f.failures, f.exits, f.cpu}
}

// site has all agents of a site come at once, for the first time and then again
// and again, without queries and with them. Each asks a random node for the way.
func (e *Env) site(ctx context.Context, nodes int) ([]Figure, error) {
	defer e.end()
	b, err := e.broker()
	if err != nil {
		return nil, err
	}
	servers, err := e.cluster(ctx, b, nodes)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("a site of 15,000 on %d node", nodes)
	if nodes > 1 {
		what += "s"
	}
	fresh, quiet, asked := newSiteFigures(what+", new"), newSiteFigures(what+", back"), newSiteFigures(what+", back, with queries")
	if err := e.comeBack(ctx, servers, fresh, false); err != nil {
		return nil, err
	}
	for range e.opts.Rounds {
		for figures, queries := range map[*siteFigures]bool{quiet: false, asked: true} {
			if err := e.comeBack(ctx, servers, figures, queries); err != nil {
				return nil, err
			}
		}
	}
	return append(append(fresh.all(), quiet.all()...), asked.all()...), nil
}

// comeBack measures one storm, then cuts all its agents off and waits until the
// nodes have forgotten them.
func (e *Env) comeBack(ctx context.Context, servers []*server, into *siteFigures, queries bool) error {
	before, err := allCPU(servers)
	if err != nil {
		return err
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	var asks sync.WaitGroup
	var answered, refused atomic.Int64
	if queries {
		for _, s := range servers {
			for range siteQueries {
				asks.Go(func() { s.node.askOften(asking, &answered, &refused) })
			}
		}
	}
	l, err := e.siteLoad(servers)
	if err != nil {
		return err
	}
	var got agents.Stats
	waiting := await(ctx, siteWithin, func() error {
		if got, err = l.stats(); err != nil {
			return err
		}
		if got.Configured+got.Exits < siteAgents {
			return notYet("%d of %d agents are served, %d gave up; %d failures to connect, the last one: %s", got.Configured, siteAgents, got.Exits, got.Failures, got.Failure)
		}
		return nil
	})
	stop()
	asks.Wait()
	after, err := allCPU(servers)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	e.log.Info("measured", "what", into.longest.Name, "served", got.Configured, "gave_up", got.Exits, "longest_s", number(got.ServedMax), "p50_s", number(got.ServedP50),
		"failures", got.Failures, "most_in_a_row", got.MostFailures, "last_failure", got.Failure, "streams_ended", got.Ended, "ending", got.Ending,
		"queries_answered", answered.Load(), "queries_refused", refused.Load(), "not_over", waiting)
	into.add(got, after-before)
	if queries {
		into.longest.Note = strings.TrimPrefix(into.longest.Note+fmt.Sprintf("; queries answered %d, refused %d", answered.Load(), refused.Load()), "; ")
	}
	if err := l.end(); err != nil {
		e.log.Warn("a generator did not end well", "error", err)
	}
	return e.empty(ctx, servers)
}

// siteLoad starts the generators at once.
func (e *Env) siteLoad(servers []*server) (*load, error) {
	var sd []string
	for _, s := range servers {
		sd = append(sd, "http://"+s.node.sd)
	}
	l := &load{count: siteAgents, server: servers[0]}
	for first := 0; first < siteAgents; first += sitePerGenerator {
		c, err := e.child(nil, "agents", append([]string{
			"--sd", strings.Join(sd, ","), "--first", strconv.Itoa(first), "--count", strconv.Itoa(sitePerGenerator), "--ramp", "0s",
		}, servers[0].bundle...)...)
		if err != nil {
			return nil, err
		}
		l.parts = append(l.parts, c)
	}
	return l, nil
}

// empty waits until no node has a session any more.
func (e *Env) empty(ctx context.Context, servers []*server) error {
	return await(ctx, siteSettle, func() error {
		for _, s := range servers {
			n, err := s.node.sessions(ctx)
			if err != nil {
				return notYet("ask for the sessions: %v", err)
			}
			if n > 0 {
				return notYet("%d sessions are left", n)
			}
		}
		return nil
	})
}

// sessions counts a node's.
func (n *node) sessions(ctx context.Context) (int, error) {
	var answer struct{ Data int }
	err := n.call(ctx, http.MethodGet, "/conn/count", nil, &answer)
	return answer.Data, err
}

// askOften searches the fleet over and over, as a console that was left open and
// a script without patience do.
func (n *node) askOften(ctx context.Context, answered, refused *atomic.Int64) {
	c, err := apiclient.New(apiclient.Options{Addr: "http://" + n.http, Token: n.token})
	if err != nil {
		return
	}
	defer c.Close()
	for ctx.Err() == nil {
		if err := c.Do(ctx, http.MethodGet, "/v1/agents?limit=1000&q=nobody", nil, nil); err == nil {
			answered.Add(1)
		} else if ctx.Err() == nil {
			refused.Add(1)
			if pause(ctx, time.Second) != nil {
				return
			}
		}
	}
}

func allCPU(servers []*server) (sum float64, err error) {
	for _, s := range servers {
		cpu, err := s.CPU()
		if err != nil {
			return 0, err
		}
		sum += cpu
	}
	return sum, nil
}

// cluster starts nodes that form one, or a lone one. The first one's certificates
// and token are good for all.
func (e *Env) cluster(ctx context.Context, b *brokerChild, count int) ([]*server, error) {
	if count == 1 {
		s, err := e.muster(ctx, b)
		return []*server{s}, err
	}
	const ports = 7
	addrs, err := freeAddrs(count * ports)
	if err != nil {
		return nil, err
	}
	var join []string
	for i := range count {
		join = append(join, addrs[i*ports+5])
	}
	nodes := make([]*node, count)
	var starting sync.WaitGroup
	errs := make([]error, count)
	for i := range nodes {
		own := addrs[i*ports : (i+1)*ports]
		n := &node{dir: filepath.Join(e.dir, e.name("node")), sd: own[0], http: own[1], agent: own[2], pprof: own[6]}
		n.args = []string{
			"--data-dir", n.dir, "--node-id", "bench-" + strconv.Itoa(i+1), "--bind", "127.0.0.1", "--advertise", "127.0.0.1", "--log-format", "json",
			"--sd-addr", n.sd, "--http-addr", n.http, "--agent-addr", n.agent, "--https-addr", own[3], "--node-addr", own[4], "--gossip-addr", own[5],
			"--kafka", b.Addr, "--join", strings.Join(join, ","), "--bootstrap-expect", strconv.Itoa(count), "--cluster-secret", "a secret of the benchmark",
		}
		nodes[i] = n
	}
	for i, n := range nodes { // each is ready only with the others
		if err := e.launch(n); err != nil {
			return nil, err
		}
		starting.Go(func() { errs[i] = n.ready(ctx) })
	}
	starting.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return e.prepareAll(ctx, nodes)
}

// prepareAll logs in at the first node for all of them.
func (e *Env) prepareAll(ctx context.Context, nodes []*node) ([]*server, error) {
	bundle, err := nodes[0].prepare(ctx)
	if err != nil {
		return nil, err
	}
	var servers []*server
	for _, n := range nodes {
		n.token = nodes[0].token
		servers = append(servers, &server{Process: n.process, addr: n.agent, bundle: bundle, pprof: n.pprof, node: n})
	}
	return servers, nil
}
