// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
)

// RecordLog takes agents' records on their way to Kafka.
type RecordLog interface {
	// Append takes values that are records[i] followed by suffix, all borrowed
	// until it returns, and blocks while the log is full.
	Append(ctx context.Context, key string, records [][]byte, suffix []byte) error
	// TryAppend is Append of what came just now, where that need not wait. It may
	// decline, and has done nothing then.
	TryAppend(came time.Time, key string, records [][]byte, suffix []byte) bool
}

// DesiredState is what agents should run, as this node knows it.
type DesiredState interface {
	Desired(agentID string) (fleet.Desired, error)
	// Current tells whether this node's state is new enough to be sent to agents.
	Current() bool
	// CurrentSince tells whether it is current and also has what was known anywhere
	// at a moment; it sees to it that this is soon so. The zero time asks no more
	// than Current.
	CurrentSince(at time.Time) bool
	// Watch returns a level-triggered channel of one and a function that ends it.
	Watch(tables ...fleet.Table) (<-chan struct{}, func())
}

// TaskStore holds the tasks of agents.
type TaskStore interface {
	PendingDispatch(agentID string) []fleet.Dispatch
	// Due returns those of the agents for which PendingDispatch has something.
	Due(agentIDs []string) []string
	MarkSent(ctx context.Context, node string, marks []fleet.TaskMark) (granted []bool, err error)
	SetResults(ctx context.Context, results []fleet.TaskResult) error
}

// Inventory keeps what is known of agents, online or not.
type Inventory interface {
	ReportAgents(ctx context.Context, reports []fleet.AgentReport) error
}

// TaskLookup finds the task that a reply or an upload belongs to.
type TaskLookup interface {
	SubTaskByToken(token string) (fleet.SubTask, error)
	Task(id string) (fleet.Task, error)
}

// Options are what New needs. Every field must be set unless its comment says
// otherwise.
type Options struct {
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Node is the name of this node.
	Node string
	// Listeners are bound already; Run closes them.
	Listeners []net.Listener
	// TLS asks agents for a certificate and verifies it, allows TLS 1.2 or later
	// with the ciphers that HTTP/2 allows, and offers "h2". It may change per handshake through its GetConfigForClient.
	TLS *tls.Config
	// Identify tells which agent a verified certificate belongs to; fleetWide is
	// true for a certificate that is good for any agent.
	Identify func(state tls.ConnectionState) (agentID string, fleetWide bool, err error)

	Log       RecordLog
	Desired   DesiredState
	Tasks     TaskStore
	Inventory Inventory
	Lookup    TaskLookup

	// Peers are the other nodes of the cluster; nil means that this node is alone.
	Peers Claims

	// UploadDir takes the files that agents upload; it is made if it is missing.
	UploadDir string
	// Limit is how many sessions are taken at once.
	Limit int
	// Tuning is for tests and unusual fleets; its zero value is right for others.
	Tuning Tuning
}

// Tuning holds limits that seldom change; zero fields get their default.
type Tuning struct {
	// Clock is this node's wall clock, for epochs and for when agents were seen;
	// default time.Now.
	Clock func() time.Time
	// DrainTimeout bounds how long Run waits, after its context has ended, for
	// the record log to take what was received; default 10 s.
	DrainTimeout time.Duration
	// FirstMessageTimeout ends a stream without any message; default 90 s. A stock
	// agent that comes from another node may have nothing to say before its next
	// heartbeat, up to 60 s later.
	FirstMessageTimeout time.Duration
	// HandshakeTimeout bounds the wait for a turn to make a TLS handshake, and then
	// TLS and HTTP/2 set-up; default 14 s. Stock agents give one address 15 s, and
	// seven failures, however short, before they exit: a long wait costs them less.
	HandshakeTimeout time.Duration
	// SendTimeout closes the connection of an agent that does not read; default 10 s.
	SendTimeout time.Duration
	// PushesPerSecond spreads a changed config over the agents; default 10,000.
	PushesPerSecond int
	// MaxUploadBytes is the largest file that is taken; default 512 MiB.
	MaxUploadBytes int64
	// MaxUploads is how many files are taken at once; default 8.
	MaxUploads int
}

func (t *Tuning) setDefaults() {
	if t.Clock == nil {
		t.Clock = time.Now
	}
	setDefault(&t.DrainTimeout, 10*time.Second)
	setDefault(&t.FirstMessageTimeout, 90*time.Second)
	setDefault(&t.HandshakeTimeout, 14*time.Second)
	setDefault(&t.SendTimeout, 10*time.Second)
	setDefault(&t.PushesPerSecond, 10_000)
	setDefault(&t.MaxUploadBytes, 512<<20)
	setDefault(&t.MaxUploads, 8)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (o *Options) validate() error {
	missing := func(field string) error { return fmt.Errorf("agentrpc: Options.%s is missing", field) }
	switch {
	case o.Logger == nil:
		return missing("Logger")
	case o.Registerer == nil:
		return missing("Registerer")
	case o.Node == "":
		return missing("Node")
	case len(o.Listeners) == 0:
		return missing("Listeners")
	case o.TLS == nil:
		return missing("TLS")
	case o.Identify == nil:
		return missing("Identify")
	case o.Log == nil:
		return missing("Log")
	case o.Desired == nil:
		return missing("Desired")
	case o.Tasks == nil:
		return missing("Tasks")
	case o.Inventory == nil:
		return missing("Inventory")
	case o.Lookup == nil:
		return missing("Lookup")
	case o.UploadDir == "":
		return missing("UploadDir")
	case o.Limit <= 0:
		return fmt.Errorf("agentrpc: Options.Limit is %d, must be above 0", o.Limit)
	}
	return o.validateTimes()
}

func (o *Options) validateTimes() error {
	t := o.Tuning
	if t.DrainTimeout < 0 || t.FirstMessageTimeout < 0 || t.HandshakeTimeout < 0 || t.SendTimeout < 0 {
		return errors.New("agentrpc: the times of Options.Tuning must not be negative")
	}
	if t.PushesPerSecond < 0 || t.MaxUploadBytes < 0 || t.MaxUploads < 0 {
		return errors.New("agentrpc: the limits of Options.Tuning must not be negative")
	}
	return nil
}
