// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"encoding/binary"
	"fmt"
)

// The load report's format: big-endian, LoadBytes long. Reports without the last
// field are 40 bytes long.
//
//	0      version, 1
//	1      flags: 1 draining, 2 ready, 4 Kafka away, 8 leaderless
//	2      CPU, per mille       4   memory, per mille    6   spool, per mille
//	8      sessions            12   limit
//	16     records a second    20   Kafka backlog
//	24     applied index       32   sequence
//	40     handed out
//
// A later release may append fields, up to MaxLoadBytes: decoders ignore what
// they do not know. The version changes only when the first 40 bytes do.
const (
	LoadBytes    = 44
	MaxLoadBytes = 48

	minLoadBytes = 40

	loadVersion = 1

	flagDraining   = 1 << 0
	flagReady      = 1 << 1
	flagKafkaAway  = 1 << 2
	flagLeaderless = 1 << 3
)

// Load is what a node reports each second to all others.
type Load struct {
	Sessions         uint32 `json:"sessions"`           // agents' streams now, those included on which nothing has come yet
	Limit            uint32 `json:"limit"`              // streams that it takes at most; 0 takes none
	CPUPermille      uint16 `json:"cpu_permille"`       // of all its cores
	MemoryPermille   uint16 `json:"memory_permille"`    // of what it may use
	SpoolPermille    uint16 `json:"spool_permille"`     // of the spool's bound
	RecordsPerSecond uint32 `json:"records_per_second"` // taken from agents
	KafkaBacklog     uint32 `json:"kafka_backlog"`      // records not yet acknowledged by Kafka
	Draining         bool   `json:"draining"`           // an operator wants it empty
	Ready            bool   `json:"ready"`              // it takes agents
	KafkaAway        bool   `json:"kafka_away"`
	Leaderless       bool   `json:"leaderless"` // no contact with a leader
	Applied          uint64 `json:"applied"`    // index of its last applied command
	// Sequence grows with each report of one run of a node, so that reports
	// which overtake each other are told apart.
	Sequence uint64 `json:"sequence"`
	// HandedOut is how many agents this node has sent to others or itself that
	// their reports do not hold yet; the other nodes learn from it who is asked.
	HandedOut uint32 `json:"-"`
}

// Encode returns the report's LoadBytes bytes.
func (l Load) Encode() []byte {
	b := make([]byte, LoadBytes)
	b[0] = loadVersion
	for flag, set := range map[byte]bool{
		flagDraining:   l.Draining,
		flagReady:      l.Ready,
		flagKafkaAway:  l.KafkaAway,
		flagLeaderless: l.Leaderless,
	} {
		if set {
			b[1] |= flag
		}
	}
	binary.BigEndian.PutUint16(b[2:], l.CPUPermille)
	binary.BigEndian.PutUint16(b[4:], l.MemoryPermille)
	binary.BigEndian.PutUint16(b[6:], l.SpoolPermille)
	binary.BigEndian.PutUint32(b[8:], l.Sessions)
	binary.BigEndian.PutUint32(b[12:], l.Limit)
	binary.BigEndian.PutUint32(b[16:], l.RecordsPerSecond)
	binary.BigEndian.PutUint32(b[20:], l.KafkaBacklog)
	binary.BigEndian.PutUint64(b[24:], l.Applied)
	binary.BigEndian.PutUint64(b[32:], l.Sequence)
	binary.BigEndian.PutUint32(b[40:], l.HandedOut)
	return b
}

// DecodeLoad reads what Encode made, here or in another release.
func DecodeLoad(b []byte) (Load, error) {
	if len(b) < minLoadBytes || len(b) > MaxLoadBytes {
		return Load{}, fmt.Errorf("load report of %d bytes, want %d to %d: %w", len(b), minLoadBytes, MaxLoadBytes, ErrInvalid)
	}
	if b[0] != loadVersion {
		return Load{}, fmt.Errorf("load report of version %d, this release knows %d: %w", b[0], loadVersion, ErrInvalid)
	}
	l := Load{
		Draining:         b[1]&flagDraining != 0,
		Ready:            b[1]&flagReady != 0,
		KafkaAway:        b[1]&flagKafkaAway != 0,
		Leaderless:       b[1]&flagLeaderless != 0,
		CPUPermille:      binary.BigEndian.Uint16(b[2:]),
		MemoryPermille:   binary.BigEndian.Uint16(b[4:]),
		SpoolPermille:    binary.BigEndian.Uint16(b[6:]),
		Sessions:         binary.BigEndian.Uint32(b[8:]),
		Limit:            binary.BigEndian.Uint32(b[12:]),
		RecordsPerSecond: binary.BigEndian.Uint32(b[16:]),
		KafkaBacklog:     binary.BigEndian.Uint32(b[20:]),
		Applied:          binary.BigEndian.Uint64(b[24:]),
		Sequence:         binary.BigEndian.Uint64(b[32:]),
	}
	if len(b) >= LoadBytes {
		l.HandedOut = binary.BigEndian.Uint32(b[40:])
	}
	return l, nil
}
