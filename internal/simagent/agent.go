// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"muster/internal/agentpb"
)

const (
	heartbeatInterval = 60 * time.Second
	// retryWait is between failures to connect, and after a stream's end.
	retryWait = 5 * time.Second
	// maxFailures to get a connection, in a row, end the agent.
	maxFailures = 7
	// restartWait is systemd's.
	restartWait = 45 * time.Second
)

// ending says why something came to its end.
type ending int

const (
	endStream   ending = iota // the stream ended; a new one is due
	endFinished               // all was sent
	endStopped                // Run's context is done
	endExit                   // a task or an update ended the agent's process
	endGaveUp                 // seven failures to connect
)

// agent is one simulated agent. Its own goroutine (run), its stream's receiver
// and an upload share what mu guards.
type agent struct {
	identity
	fleet *Fleet
	log   *slog.Logger
	link  link
	// streams opened so far; only the agent's own goroutine counts them.
	streams int

	// wake tells the session that the buffer got something; room for one.
	wake chan struct{}
	// uploads are this process's; run waits for them.
	uploads sync.WaitGroup

	mu sync.Mutex
	state
}

// state is what an agent's mutex guards.
type state struct {
	buffer buffer
	source source
	sent   uint64 // data records, the last number used

	process process

	idc, region string
	version     string
	plugins     map[string]running
	config      []*agentpb.ConfigItem
	configs     int
}

// process is what dies with the agent's process.
type process struct {
	alive     bool
	started   time.Time
	pid       int
	nextBeat  time.Time
	lastBeat  time.Time
	beats     int
	netMode   string
	tx, rx    int // records and commands since the last heartbeat
	exiting   bool
	uploading bool
}

// pluginList is sorted by name. It needs the lock.
func (s *state) pluginList() []Plugin {
	list := make([]Plugin, 0, len(s.plugins))
	for _, p := range s.plugins {
		list = append(list, p.Plugin)
	}
	slices.SortFunc(list, func(a, b Plugin) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func newAgent(f *Fleet, id identity) *agent {
	a := &agent{
		identity: id,
		fleet:    f,
		log:      f.opts.Logger.With("agent_id", id.id),
		link:     link{fleet: f},
		wake:     make(chan struct{}, 1),
	}
	a.idc, a.region, a.version = "default", "default", DefaultVersion
	a.source.rate, a.source.limit = f.opts.Load.Rate, f.opts.Load.Records
	return a
}

// run lives through all of the agent's processes.
func (a *agent) run(ctx context.Context, delay time.Duration) {
	if !sleep(ctx, delay) {
		return
	}
	if d := a.fleet.opts.Load.Duration; d > 0 {
		a.source.until = time.Now().Add(d)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d+durationGrace)
		defer cancel()
	}
	a.boot(time.Now(), a.fleet.opts.Plugins)
	for {
		end := a.live(ctx)
		a.end()
		if end == endFinished {
			a.fleet.counters.finished.Add(1)
			return
		}
		if end == endStopped {
			return
		}
		a.stopPlugins()
		a.fleet.counters.exits.Add(1)
		a.log.Info("agent exited", "gave_up", end == endGaveUp)
		if !a.fleet.opts.Systemd || !sleep(ctx, restartWait) {
			return
		}
		a.fleet.counters.restarts.Add(1)
		a.boot(time.Now(), nil)
	}
}

// live is one process: connect, stream, wait, again.
func (a *agent) live(ctx context.Context) ending {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for failures := 0; ; {
		conn, mode, err := a.link.get(ctx)
		switch {
		case ctx.Err() != nil:
			return endStopped
		case err != nil:
			failures++
			a.log.Info("no connection", "failures", failures, "error", err)
			if failures == maxFailures {
				a.fleet.gaveUp.add(err)
				return endGaveUp
			}
		default:
			failures = 0
			a.connectedBy(mode)
			if end := a.session(ctx, conn); end != endStream {
				return end
			}
		}
		if !sleep(ctx, retryWait) {
			return endStopped
		}
	}
}

// boot starts a process: a first heartbeat, then the plugins.
func (a *agent) boot(now time.Time, plugins []Plugin) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.process = process{alive: true, started: now, lastBeat: now, nextBeat: now, pid: 1000 + rand.IntN(60_000), netMode: modeUnknown}
	a.plugins = make(map[string]running, len(plugins))
	for _, p := range plugins {
		a.plugins[p.Name] = newRunning(p, now)
	}
	a.source.start(now)
	a.advance(now)
}

// end stops a process: what it held is lost.
func (a *agent) end() {
	a.link.close()
	a.uploads.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.process.alive = false
	a.fleet.counters.dropped.Add(int64(len(a.buffer.take(nil))))
}

func (a *agent) stopPlugins() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.plugins = nil
}

func (a *agent) connectedBy(mode string) {
	if mode == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.process.netMode = mode
}

// advance puts into the buffer all that came up until now, in its order. It
// needs the lock.
func (a *agent) advance(now time.Time) {
	for !a.process.nextBeat.After(now) {
		at := a.process.nextBeat
		a.produce(at, a.source.due(at))
		a.beat(at)
		a.process.nextBeat = at.Add(heartbeatInterval)
	}
	a.produce(now, a.source.due(now))
}

// produce adds data records; those that find no room are dropped, as a stock
// agent drops a plugin's records. It needs the lock.
func (a *agent) produce(now time.Time, records uint64) {
	if records == 0 {
		return
	}
	fit := min(records, uint64(a.buffer.free()))
	for i := range fit {
		a.buffer.entries = append(a.buffer.entries, entry{dataType: typeExecve, timestamp: a.source.at(a.source.made+i, now).Unix()})
	}
	a.source.made += records
	a.fleet.counters.made.Add(int64(records))
	a.fleet.counters.dropped.Add(int64(records - fit))
}

// beat adds the agent's heartbeat and, but for the first one, its plugins'. It
// needs the lock.
func (a *agent) beat(now time.Time) {
	p := &a.process
	elapsed := now.Sub(p.lastBeat).Seconds()
	v := vitals{
		first: p.beats == 0, netMode: p.netMode, idc: a.idc, region: a.region, started: p.started, pid: p.pid,
		hostID: a.id, serial: a.serial, state: "running",
	}
	if elapsed > 0 {
		v.txTPS, v.rxTPS = float64(p.tx)/elapsed, float64(p.rx)/elapsed
	}
	a.addOwn(entry{dataType: typeHeartbeat, timestamp: now.Unix(), body: a.fleet.templates.agentHeartbeat(v)})
	if p.beats > 0 {
		for _, plugin := range a.plugins {
			a.addOwn(entry{dataType: typePluginHeartbeat, timestamp: now.Unix(), body: pluginHeartbeat(plugin)})
		}
	}
	p.beats++
	p.lastBeat, p.tx, p.rx = now, 0, 0
}

// addOwn adds a record of the agent itself. It needs the lock.
func (a *agent) addOwn(e entry) {
	if !a.buffer.addOwn(e) {
		a.fleet.counters.dropped.Add(1)
	}
}

// addPlugin adds a record of a plugin. It needs the lock.
func (a *agent) addPlugin(e entry) {
	if !a.buffer.addPlugin(e) {
		a.fleet.counters.dropped.Add(1)
	}
}

// sleep reports false when ctx ended it.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
