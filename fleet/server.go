// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import "time"

// Server is a member of the cluster as the replicated store's consensus knows it.
type Server struct {
	ID, Name, Address string
	Voter, Leader     bool
	// Applied, Format and Age come from the server's last answer to the leader,
	// Age ago. They are zero on other nodes than the leader, and for a server
	// that did not answer since this leader was elected.
	Applied uint64
	Format  int
	Age     time.Duration
	// Lag is how many entries the server is behind the leader.
	Lag uint64
}

// NodeState is how far a node's replicated state is, by its own account.
type NodeState struct {
	Applied uint64
	Hash    string // logical hash at Applied
	// MarkIndex and MarkHash are of a state that every member can still name a
	// little later, to compare them; 0 if there is none yet.
	MarkIndex uint64
	MarkHash  string
	Format    int // the highest replicated format that it can apply
	Term      uint64
	Leader    string // server ID of the one it follows; empty: none
	Ready     bool
	// LogIndex and LogTerm are of the last entry in its log, applied or not; 0 if it
	// did not say.
	LogIndex, LogTerm uint64
	// CertificateEnd is when the node's certificate for other nodes ends, zero if
	// it did not say.
	CertificateEnd time.Time
}

// Claim says that a node holds an agent's stream. Of two streams of one agent
// the one with the higher epoch is the newer.
type Claim struct {
	AgentID string
	Epoch   uint64
}
