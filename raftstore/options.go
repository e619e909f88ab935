// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
)

// Sealer encrypts secrets before they enter the log. Both methods must be safe
// for concurrent use; Open must fail for bytes that Seal did not make.
type Sealer interface {
	Seal(plain []byte) ([]byte, error)
	Open(sealed []byte) ([]byte, error)
}

// Options say where a Store lives and what it works with.
type Options struct {
	// Dir holds everything; it is made (0700) if it is missing. One process at a time.
	Dir string
	// NodeName is the operator's name of this node. A directory belongs to one name.
	NodeName string
	// Transport is called once by Run for what reaches the other nodes, whose
	// addresses its own ServerAddressProvider knows, or are their IDs. Nil: this
	// node stays alone. It must be a raft.WithPreVote; one that can be closed is
	// closed when Run returns.
	Transport func(serverID string) raft.Transport
	// Peers reaches the stores of the other nodes. Nil: writes and linearizable
	// reads work on the leader only.
	Peers Peers
	// Sealer protects the secrets of access keys.
	Sealer Sealer
	// Logger is where raft, its log and the store report; nil discards.
	Logger *slog.Logger
	// Registerer takes the metrics; nil keeps them private.
	Registerer prometheus.Registerer
	// Fatal is called once, when the disk lies or fails, before anything
	// else is answered. It should end the process; if it returns, every later
	// call is refused. Nil panics.
	Fatal func(error)
	// Profile is "lan" (the meaning of "") or "wan", which triples Raft's timeouts.
	Profile string
	// PeersApplied returns the highest applied index that any member gossiped
	// at least two seconds ago; nil: this node knows no others.
	PeersApplied func() uint64
	// Recover is for a node that is to become the only server of its cluster, from
	// its own state and log, because the majority is lost for good: New refuses a
	// directory that nobody can recover from, and Run unless Store.Recover was called.
	Recover bool
	// Tuning is for tests and small machines; its zero value is for production.
	Tuning Tuning
}

// Tuning holds sizes that have good defaults. They may differ between nodes
// and between starts.
type Tuning struct {
	// SegmentBytes is the size of a log file; 0 means 64 MiB.
	SegmentBytes int
	// MmapBytes is how much address space the state is given at once; growing
	// beyond it waits for readers. 0 means 64 GiB.
	MmapBytes int
	// TrailingLogs is how many applied entries stay for slow followers; 0 means 2,048.
	TrailingLogs uint64
	// SnapshotEntries and SnapshotBytes are the growth of the log after which
	// it is cut; 0 means 8,192 and 256 MiB.
	SnapshotEntries uint64
	SnapshotBytes   uint64
	// SnapshotInterval is how often raft looks at SnapshotEntries; 0 means 30 s.
	SnapshotInterval time.Duration
	// Election is how long a node waits for its leader before it wants to
	// become one; 0 means 500 ms, three times that with Profile "wan".
	Election time.Duration
}

const (
	profileLAN = "lan"
	profileWAN = "wan"
)

// validate fills in the defaults and names the field that is wrong.
func (o *Options) validate() error {
	switch {
	case o.Dir == "":
		return fmt.Errorf("raftstore: Options.Dir is empty")
	case o.NodeName == "":
		return fmt.Errorf("raftstore: Options.NodeName is empty")
	case o.Sealer == nil:
		return fmt.Errorf("raftstore: Options.Sealer is missing")
	}
	if err := fleet.CheckAgentID(o.NodeName); err != nil {
		return fmt.Errorf("raftstore: Options.NodeName %q: %w", o.NodeName, err)
	}
	switch o.Profile {
	case "":
		o.Profile = profileLAN
	case profileLAN, profileWAN:
	default:
		return fmt.Errorf("raftstore: Options.Profile %q is neither lan nor wan", o.Profile)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(err) }
	}
	if o.PeersApplied == nil {
		o.PeersApplied = func() uint64 { return 0 }
	}
	o.Tuning.fill()
	return nil
}

func (t *Tuning) fill() {
	setDefault(&t.SegmentBytes, 64<<20)
	setDefault(&t.MmapBytes, 64<<30)
	setDefault(&t.TrailingLogs, 2048)
	setDefault(&t.SnapshotEntries, 8192)
	setDefault(&t.SnapshotBytes, 256<<20)
	setDefault(&t.SnapshotInterval, 30*time.Second)
	setDefault(&t.Election, 500*time.Millisecond)
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// raftConfig returns the timing and sizes that raft itself is given.
func (o *Options) raftConfig(id string) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(id)
	c.HeartbeatTimeout = o.Tuning.Election
	if o.Profile == profileWAN {
		c.HeartbeatTimeout *= 3
	}
	c.ElectionTimeout = c.HeartbeatTimeout
	c.LeaderLeaseTimeout = c.HeartbeatTimeout / 2
	c.BatchApplyCh = true
	c.ShutdownOnRemove = false
	c.TrailingLogs = o.Tuning.TrailingLogs
	c.SnapshotThreshold = o.Tuning.SnapshotEntries
	c.SnapshotInterval = o.Tuning.SnapshotInterval
	// The state file is the snapshot, and it is always the newest.
	c.NoSnapshotRestoreOnStart = true
	c.NoLegacyTelemetry = true
	c.Logger = newRaftLogger(o.Logger)
	return c
}
