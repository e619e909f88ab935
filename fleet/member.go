// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"
)

// MaxMetaBytes bounds the facts that a node gossips about itself.
const MaxMetaBytes = 512

// The facts' format: a version byte, the format number (2 bytes, big-endian), the
// start (8 bytes, Unix seconds), then strings, each behind one byte of length, in
// the order of metaStrings, and Expect in decimal, empty for 0. A later release may append strings:
// decoders ignore those that they do not know, and leave empty those that an older
// release lacks.
const (
	metaVersion     = 1
	metaHeaderBytes = 11
)

// Member is a node as another one knows it. The facts about itself change
// seldom and are gossiped as meta; Load, ReportedAt and Alive are what the
// knowing node noted.
type Member struct {
	NodeID    string    `json:"node_id"`    // the name given by the operator
	ServerID  string    `json:"server_id"`  // of its data directory
	ClusterID string    `json:"cluster_id"` // empty while it belongs to none
	Version   string    `json:"version"`    // of the program
	Format    int       `json:"format"`     // the highest replicated format that it can apply
	Zone      string    `json:"zone"`
	AgentAddr string    `json:"agent_addr"` // IP:PORT that agents are told; the others alike
	HTTPAddr  string    `json:"http_addr"`
	HTTPSAddr string    `json:"https_addr"`
	SDAddr    string    `json:"sd_addr"`
	NodeAddr  string    `json:"node_addr"`
	Expect    int       `json:"expect"`  // its --bootstrap-expect while it belongs to no cluster; 0: it only joins
	Started   time.Time `json:"started"` // whole seconds

	Load       Load      `json:"load"`
	ReportedAt time.Time `json:"reported_at"` // when Load came, by the knowing node's clock; zero: never
	Alive      bool      `json:"alive"`       // as gossip sees it

	// MaxAge is how old Load may be, where that is not MaxLoadAge: nodes that are
	// far from each other allow for more.
	MaxAge time.Duration `json:"-"`
}

// metaStrings lists the facts that are strings, in the order of the format.
func (m *Member) metaStrings() []*string {
	return []*string{
		&m.NodeID, &m.ServerID, &m.ClusterID, &m.Version, &m.Zone,
		&m.AgentAddr, &m.HTTPAddr, &m.HTTPSAddr, &m.SDAddr, &m.NodeAddr,
	}
}

// Silent tells whether the node's load was never reported, or not for so long
// that it may be dead.
func (m *Member) Silent(now time.Time) bool {
	return m.ReportedAt.IsZero() || now.Sub(m.ReportedAt) > cmp.Or(m.MaxAge, MaxLoadAge)
}

// EncodeMeta returns the facts. It refuses those that do not fit MaxMetaBytes,
// an empty NodeID and a Format outside 16 bits.
func (m Member) EncodeMeta() ([]byte, error) {
	if m.NodeID == "" {
		return nil, Invalid("node_id", "is empty")
	}
	if m.Format < 0 || m.Format > math.MaxUint16 {
		return nil, Invalid("format", "%d is not between 0 and %d", m.Format, math.MaxUint16)
	}
	b := make([]byte, 0, MaxMetaBytes)
	b = append(b, metaVersion)
	b = binary.BigEndian.AppendUint16(b, uint16(m.Format))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Started.Unix()))
	expect := ""
	if m.Expect > 0 {
		expect = strconv.Itoa(m.Expect)
	}
	for _, s := range append(m.metaStrings(), &expect) {
		if len(*s) > math.MaxUint8 {
			return nil, Refuse(CodeTooLarge, "a fact about node %.40q is %d bytes long, at most %d are possible", m.NodeID, len(*s), math.MaxUint8)
		}
		b = append(b, byte(len(*s)))
		b = append(b, *s...)
	}
	if len(b) > MaxMetaBytes {
		return nil, Refuse(CodeTooLarge,
			"the facts about node %.40q are %d bytes, at most %d can be gossiped: shorten its name, zone or addresses",
			m.NodeID, len(b), MaxMetaBytes)
	}
	return b, nil
}

// DecodeMeta reads what EncodeMeta made, here or in another release.
func DecodeMeta(b []byte) (Member, error) {
	if len(b) < metaHeaderBytes {
		return Member{}, fmt.Errorf("facts about a node are cut off after %d bytes: %w", len(b), ErrInvalid)
	}
	if b[0] != metaVersion {
		return Member{}, fmt.Errorf("facts about a node of version %d, this release knows %d: %w", b[0], metaVersion, ErrInvalid)
	}
	m := Member{
		Format:  int(binary.BigEndian.Uint16(b[1:])),
		Started: time.Unix(int64(binary.BigEndian.Uint64(b[3:])), 0).UTC(),
	}
	expect, rest := "", b[metaHeaderBytes:]
	for _, s := range append(m.metaStrings(), &expect) {
		if len(rest) == 0 {
			break
		}
		size := int(rest[0])
		if len(rest) < 1+size {
			return Member{}, fmt.Errorf("facts about a node are cut off after %d bytes: %w", len(b), ErrInvalid)
		}
		*s, rest = string(rest[1:1+size]), rest[1+size:]
	}
	if m.NodeID == "" {
		return Member{}, fmt.Errorf("facts about a node without a name: %w", ErrInvalid)
	}
	if expect == "" {
		return m, nil
	}
	var err error
	if m.Expect, err = strconv.Atoi(expect); err != nil || m.Expect < 1 || strconv.Itoa(m.Expect) != expect {
		return Member{}, fmt.Errorf("facts about node %.40q: it expects %.20q nodes: %w", m.NodeID, expect, ErrInvalid)
	}
	return m, nil
}
