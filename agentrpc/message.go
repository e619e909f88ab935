// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"muster/fleet"
)

// Field numbers of the wire; see internal/agentpb/agent.proto.
const (
	rawRecords  protowire.Number = 1
	rawAgentID  protowire.Number = 2
	rawIPs      protowire.Number = 3 // 3 to 6: four lists of addresses
	rawHostname protowire.Number = 7 // 7 to 9: hostname, version, product
	rawProduct  protowire.Number = 9

	recordDataType  protowire.Number = 1
	recordTimestamp protowire.Number = 2
	recordBody      protowire.Number = 3

	mqAgentID  protowire.Number = 4
	mqIPs      protowire.Number = 5 // 5 to 8
	mqHostname protowire.Number = 9 // 9 to 11
	mqSvrTime  protowire.Number = 12
	mqTag      protowire.Number = 15
)

const (
	// maxIdentityBytes bounds what an agent says about itself: it is repeated
	// with each of its records.
	maxIdentityBytes = 16 << 10
	// maxStampedBytes bounds what one message may grow to by that repetition. A
	// stock agent sends at most 2,048 records at once.
	maxStampedBytes = 64 << 20
	// maxRecords bounds what taking a message of tiny records apart costs.
	maxRecords = 1 << 18
	// keepRecords is the largest list of records that is used again.
	keepRecords = 1 << 12
	// maxKnownBytes bounds what is remembered of a busy agent's description.
	maxKnownBytes = 512
)

var (
	errMalformed   = errors.New("malformed protobuf")
	errIdentity    = fmt.Errorf("the agent's description of itself is over %d bytes", maxIdentityBytes)
	errTooManyRecs = errors.New("too many records in one message")
)

// message is a RawData message taken apart. Its slices point into the frame
// that it was parsed from, or into memory that reset takes back. Its texts are
// UTF-8.
type message struct {
	agentID []byte
	ips     [4][][]byte // intranet v4, extranet v4, intranet v6, extranet v6
	names   [3][]byte   // hostname, version, product

	// records are values of MQData without their suffix.
	records [][]byte
	// notable are the records that the AgentCenter itself acts on, in order.
	notable []notable
	// normalised counts the records that carried more than their three fields.
	normalised int
	// repaired counts the texts that were not UTF-8.
	repaired int
	tally    tally

	// known is what the session knew before, if the message says the same of its
	// agent; then neither agentID, ips and names nor identity are set.
	known *origin
	// header is what follows the records, if all that describes the agent does.
	header   []byte
	identity []byte // fields 4 to 11 of MQData, encoded
	suffix   []byte // identity, time and tags

	lane *lane // where this message and others of its processor are counted
}

// origin is how a busy agent describes itself with each message: messages that
// end in the same bytes say the same. It is the receiver's alone.
type origin struct {
	header   []byte // of RawData; without records
	identity []byte // of MQData
}

// notable is a record that is not only forwarded.
type notable struct {
	dataType fleet.DataType
	body     []byte
}

func (m *message) reset() {
	if cap(m.records) > keepRecords {
		*m = message{lane: m.lane}
		return
	}
	if m.known == nil {
		for i := range m.ips {
			clear(m.ips[i])
			m.ips[i] = m.ips[i][:0]
		}
		m.agentID, m.names, m.identity = nil, [3][]byte{}, m.identity[:0]
	}
	clear(m.records)
	clear(m.notable)
	m.records, m.notable = m.records[:0], m.notable[:0]
	m.normalised, m.repaired = 0, 0
	m.tally.reset()
	m.known, m.header, m.suffix = nil, nil, m.suffix[:0]
}

// parse walks a RawData message of an agent of which that is known, nil for
// nothing; m has to be reset. It accepts and refuses exactly what unmarshalling
// would, besides the limits of this file and texts that are not UTF-8: those are
// repaired. After an error m holds nothing of use.
func (m *message) parse(b []byte, known *origin) error {
	split := false // what describes the agent is not all behind the records
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return errMalformed
		}
		switch isRecord := num == rawRecords && typ == protowire.BytesType; {
		case isRecord && m.header != nil:
			m.header, split = nil, true
		case isRecord || split || m.header != nil:
		case known != nil && bytes.Equal(b, known.header):
			m.known = known
			return nil
		default:
			m.header = b
		}
		b = b[n:]
		if typ != protowire.BytesType || num > rawProduct {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return errMalformed
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return errMalformed
		}
		if err := m.field(num, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return m.encodeIdentity()
}

// field takes a length-delimited field 1 to 9 of RawData.
func (m *message) field(num protowire.Number, v []byte) error {
	if num == rawRecords {
		if len(m.records) == maxRecords {
			return errTooManyRecs
		}
		return m.record(v)
	}
	if !utf8.Valid(v) {
		v = validText(v)
		m.repaired++
	}
	switch {
	case num == rawAgentID:
		m.agentID = v
	case num < rawHostname:
		m.ips[num-rawIPs] = append(m.ips[num-rawIPs], v)
	default:
		m.names[num-rawHostname] = v
	}
	return nil
}

// record takes one record. Bytes that hold nothing but the three fields are
// used as they are; others are written anew, so that a record cannot name
// another agent, host or tag.
func (m *message) record(raw []byte) error {
	var (
		dataType, timestamp uint64
		body                []byte
		foreign             bool
	)
	for b := raw; len(b) > 0; {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		switch {
		case num == recordDataType && typ == protowire.VarintType:
			dataType, n = protowire.ConsumeVarint(b)
		case num == recordTimestamp && typ == protowire.VarintType:
			timestamp, n = protowire.ConsumeVarint(b)
		case num == recordBody && typ == protowire.BytesType:
			body, n = protowire.ConsumeBytes(b)
		default:
			foreign = true
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
	}
	if foreign {
		m.normalised++
		raw = encodeRecord(int32(dataType), int64(timestamp), body) //nolint:gosec // what protobuf does with a varint that is too large
	}
	m.records = append(m.records, raw)
	t := fleet.DataType(int32(dataType)) //nolint:gosec // as above
	k := kindOf(t)
	m.tally.add(k, len(raw))
	if k.isNotable() {
		m.notable = append(m.notable, notable{t, body})
	}
	return nil
}

// encodeIdentity writes fields 4 to 11 of MQData.
func (m *message) encodeIdentity() error {
	size := len(m.agentID)
	for _, list := range m.ips {
		for _, ip := range list {
			size += len(ip) + 1
		}
	}
	for _, name := range m.names {
		size += len(name)
	}
	if size > maxIdentityBytes {
		return errIdentity
	}
	b := appendText(m.identity[:0], mqAgentID, m.agentID)
	for i, list := range m.ips {
		b = appendJoined(b, mqIPs+protowire.Number(i), list) //nolint:gosec // i < 4
	}
	for i, name := range m.names {
		b = appendText(b, mqHostname+protowire.Number(i), name) //nolint:gosec // i < 3
	}
	m.identity = b
	return nil
}

// stamp makes the suffix of all records: who sent them, when they came (Unix
// seconds) and the agent's tags, which are encoded already.
func (m *message) stamp(now int64, tags []byte) error {
	identity := m.identity
	if m.known != nil {
		identity = m.known.identity
	}
	b := append(m.suffix[:0], identity...)
	b = protowire.AppendTag(b, mqSvrTime, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(now)) //nolint:gosec // int64 on the wire
	m.suffix = append(b, tags...)
	if len(m.records)*len(m.suffix) > maxStampedBytes {
		return errTooManyRecs
	}
	return nil
}

// origin copies what the session may know of the agent from now on, nil if that
// is nothing; identity is m's.
func (m *message) origin(identity []byte) *origin {
	if len(m.header) == 0 || len(m.header) > maxKnownBytes || m.repaired > 0 {
		return nil
	}
	return &origin{header: bytes.Clone(m.header), identity: identity}
}

// who copies the identity out of the message.
func (m *message) who() fleet.Identity {
	list := func(in [][]byte) []string {
		out := make([]string, len(in))
		for i, s := range in {
			out[i] = string(s)
		}
		return out
	}
	return fleet.Identity{
		AgentID: string(m.agentID), Hostname: string(m.names[0]),
		Version: string(m.names[1]), Product: string(m.names[2]),
		IntranetIPv4: list(m.ips[0]), ExtranetIPv4: list(m.ips[1]),
		IntranetIPv6: list(m.ips[2]), ExtranetIPv6: list(m.ips[3]),
	}
}
