// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"muster/internal/pki"
	"muster/test/bench/agents"
	"muster/test/bench/broker"
	"muster/test/bench/control"
)

// Env starts what a row needs, and ends it after the row.
type Env struct {
	opts   Options
	log    *slog.Logger
	dir    string // of the whole run
	count  int    // of processes, for names
	ending []func() error
	ca     *pki.CA

	saturated float64 // records a second that Muster took, if that was measured
}

func newEnv(opts Options) (*Env, error) {
	dir, err := os.MkdirTemp("", "muster-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	ca, err := pki.NewCA("bench", time.Now())
	if err != nil {
		return nil, err
	}
	return &Env{opts: opts, log: opts.Logger, dir: dir, ca: ca}, nil
}

// end ends all processes of a row, the last one first.
func (e *Env) end() {
	for _, end := range slices.Backward(e.ending) {
		if err := end(); err != nil {
			e.log.Warn("a process did not end well", "error", err)
		}
	}
	e.ending = nil
}

func (e *Env) close() error { return os.RemoveAll(e.dir) }

func (e *Env) name(of string) string {
	e.count++
	return of + "-" + strconv.Itoa(e.count)
}

// child starts this very program in another role.
func (e *Env) child(ready any, role string, args ...string) (*control.Child, error) {
	c, err := control.StartChild(e.dir, e.name(role), exec.Command(e.opts.Self, append([]string{role}, args...)...), ready) //nolint:gosec // this program
	if err != nil {
		return nil, err
	}
	e.ending = append(e.ending, c.End)
	return c, nil
}

// brokerChild is the broker's process.
type brokerChild struct {
	*control.Child
	Addr string
}

func (b *brokerChild) stats() (s broker.Stats, err error) { return s, b.Ask("stats", &s) }

func (e *Env) broker() (*brokerChild, error) {
	var ready struct{ Addr string }
	c, err := e.child(&ready, "broker")
	return &brokerChild{c, ready.Addr}, err
}

// server is what agents connect to: Muster or the floor.
type server struct {
	*control.Process
	addr   string // for agents
	bundle []string
	pprof  string
	node   *node          // nil: the floor
	child  *control.Child // of the floor
}

// floor starts the floor.
func (e *Env) floor(b *brokerChild) (*server, error) {
	var ready struct{ Addr string }
	dir := filepath.Join(e.dir, e.name("floor"))
	serverPair, err := e.ca.IssuePair(pki.AgentServerRequest("floor"), time.Now())
	if err != nil {
		return nil, err
	}
	clientPair, err := e.ca.IssuePair(pki.FleetRequest("bench"), time.Now())
	if err != nil {
		return nil, err
	}
	own, err := writeBundle(filepath.Join(dir, "server"), e.ca.CertPEM(), serverPair.CertPEM, serverPair.KeyPEM)
	if err != nil {
		return nil, err
	}
	theirs, err := writeBundle(filepath.Join(dir, "client"), e.ca.CertPEM(), clientPair.CertPEM, clientPair.KeyPEM)
	if err != nil {
		return nil, err
	}
	args := append(own, "--broker", b.Addr)
	var pprof string
	if e.opts.Profile != "" {
		addrs, err := freeAddrs(1)
		if err != nil {
			return nil, err
		}
		pprof = addrs[0]
		args = append(args, "--pprof", pprof)
	}
	c, err := e.child(&ready, "floor", args...)
	if err != nil {
		return nil, err
	}
	return &server{Process: c.Process, addr: ready.Addr, bundle: theirs, pprof: pprof, child: c}, nil
}

// writeBundle writes PEM files and returns the arguments that name them.
func writeBundle(dir string, ca, cert, key []byte) ([]string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	var args []string
	for name, text := range map[string][]byte{"ca": ca, "cert": cert, "key": key} {
		file := filepath.Join(dir, name+".pem")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return nil, fmt.Errorf("write a certificate: %w", err)
		}
		args = append(args, "--"+name, file)
	}
	return args, nil
}

// load is one or more generators as one.
type load struct {
	parts  []*control.Child
	count  int
	server *server
}

// loadOptions say what the agents do; see agents.Options.
type loadOptions struct {
	agents, batch, numbered int
	first                   int // index of the first one
	rate                    float64
	ramp, heartbeat         time.Duration
}

// perGenerator keeps a generator within the usual limit of open files.
const perGenerator = 8000

func (e *Env) load(s *server, o loadOptions) (*load, error) {
	if o.heartbeat == 0 {
		o.heartbeat = time.Minute
	}
	l := &load{count: o.agents, server: s}
	parts := (o.agents + perGenerator - 1) / perGenerator
	for i := range parts {
		first, next := o.first+o.agents*i/parts, o.first+o.agents*(i+1)/parts
		args := append([]string{
			"--addr", s.addr, "--first", strconv.Itoa(first), "--count", strconv.Itoa(next - first), "--ramp", o.ramp.String(),
			"--batch", strconv.Itoa(o.batch), "--rate", strconv.FormatFloat(o.rate/float64(parts), 'f', -1, 64),
			"--numbered", strconv.Itoa(o.numbered), "--heartbeat", o.heartbeat.String(),
		}, s.bundle...)
		c, err := e.child(nil, "agents", args...)
		if err != nil {
			return nil, err
		}
		l.parts = append(l.parts, c)
	}
	return l, nil
}

// ask sums up what the generators answer; the times are the worst ones.
func (l *load) ask(command string) (sum agents.Stats, err error) {
	for _, p := range l.parts {
		var s agents.Stats
		if err := p.Ask(command, &s); err != nil {
			return sum, err
		}
		sum = sum.Plus(s)
	}
	return sum, nil
}

func (l *load) stats() (agents.Stats, error) { return l.ask("stats") }

// stop lets the agents end their streams, and returns what they have done.
func (l *load) stop() (agents.Stats, error) { return l.ask("stop") }

// end ends the processes at once.
func (l *load) end() error {
	var errs []error
	for _, p := range l.parts {
		errs = append(errs, p.End())
	}
	return errors.Join(errs...)
}

// connected waits until all agents are.
func (l *load) connected(ctx context.Context, within time.Duration) error {
	return await(ctx, within, func() error {
		if _, err := l.server.CPU(); err != nil {
			return err
		}
		s, err := l.stats()
		if err != nil {
			return err
		}
		if s.Connected < int64(l.count) {
			return notYet("%d of %d agents are connected; %d failures, the last one: %s; %d streams ended, the last one: %s",
				s.Connected, l.count, s.Failures, s.Failure, s.Ended, s.Ending)
		}
		return nil
	})
}

// stillConnected says how many agents are. On a busy machine a few may be away
// for a moment.
func (l *load) stillConnected() (float64, error) {
	s, err := l.stats()
	if err != nil {
		return 0, err
	}
	if float64(s.Connected) < 0.99*float64(l.count) {
		return 0, fmt.Errorf("only %d of %d agents are connected; %d streams ended, the last one: %s", s.Connected, l.count, s.Ended, s.Ending)
	}
	return float64(s.Connected), nil
}

// notYetError is what await waits for to go away.
type notYetError struct{ text string }

func (e notYetError) Error() string { return e.text }

func notYet(format string, args ...any) error { return notYetError{fmt.Sprintf(format, args...)} }

// await asks until what is nil, or another error than notYet's.
func await(ctx context.Context, within time.Duration, what func() error) error {
	end := time.Now().Add(within)
	for {
		err := what()
		if _, wait := errors.AsType[notYetError](err); !wait {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("after %s: %w", within, err)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// get fetches a URL, decoding JSON into value unless that is nil.
func get(ctx context.Context, url string, value any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, res.Status, body)
	}
	if value == nil {
		return nil
	}
	return json.Unmarshal(body, value)
}
