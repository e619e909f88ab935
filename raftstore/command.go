// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"muster/fleet"
)

// Limits of one entry of the log. Longer calls are cut into several.
const (
	maxEntryBytes = 256 << 10
	maxEntryItems = 1000
	// maxItemBytes is what the items of one entry may take, so that the rest fits too.
	maxItemBytes = 192 << 10
)

const envelopeVersion = 1

// envelope is an entry of the log: one version byte, this as JSON, and the
// CRC32C of both.
type envelope struct {
	Kind string `json:"kind"`
	// At is the leader's clock when it proposed, in Unix seconds.
	At int64 `json:"at"`
	// Request, if set, makes a second proposal of the same call harmless.
	Request string          `json:"request,omitempty"`
	Body    json.RawMessage `json:"body"`
}

// command is one kind of change. Its fields are the entry's body.
type command interface {
	kind() string
	// decide is a pure function of the state, the entry's index and log time:
	// it records writes in c and returns the answer's body, or a *fleet.Refusal,
	// after which none of the writes count.
	decide(c *change) (any, error)
}

// answer is what an entry's proposer is told; it is also what is kept for the
// request's ID.
type answer struct {
	Refusal *fleet.Refusal  `json:"refusal,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// newCommand returns the empty command of a kind, or nil. Kinds are never
// renamed, and their decisions never change within a format.
func newCommand(kind string) command {
	switch kind {
	case "cluster.found":
		return new(foundCluster)
	case "meta.put":
		return new(putMeta)
	case "format.raise":
		return new(raiseFormat)
	case "node.remove":
		return new(removeNode)
	case "tick":
		return new(tick)
	case "user.create":
		return new(createUser)
	case "user.update":
		return new(updateUser)
	case "user.delete":
		return new(deleteUsers)
	case "token.create":
		return new(createToken)
	case "token.revoke":
		return new(revokeToken)
	case "token.touch":
		return new(touchToken)
	case "key.add":
		return new(addKey)
	case "key.delete":
		return new(deleteKey)
	case "config.default":
		return new(setDefaultConfig)
	case "agent.tag":
		return new(tagAgents)
	case "agent.report":
		return new(reportAgents)
	case "task.create":
		return new(createTask)
	case "task.targets":
		return new(addTargets)
	case "task.seal":
		return new(sealTask)
	case "task.drop":
		return new(dropTask)
	case "task.run":
		return new(runTask)
	case "task.cancel":
		return new(cancelTask)
	case "task.fail":
		return new(failTask)
	case "task.sent":
		return new(markSent)
	case "task.results":
		return new(setResults)
	}
	return nil
}

// envelopeHead is an envelope without its body, which follows bodyKey. Bodies are
// most of an entry, and JSON already: they are neither read nor copied for its sake.
type envelopeHead struct {
	Kind    string `json:"kind"`
	At      int64  `json:"at"`
	Request string `json:"request,omitempty"`
}

const bodyKey = `,"body":`

// encodeEnvelope makes the bytes of a log entry; they may be too long. The body
// is ours, or was decoded before.
func encodeEnvelope(e envelope) ([]byte, error) {
	head, err := encodeJSON(envelopeHead{e.Kind, e.At, e.Request})
	if err != nil {
		return nil, fmt.Errorf("encoding command %s: %w", e.Kind, err)
	}
	out := make([]byte, 0, 1+len(head)+len(bodyKey)+len(e.Body)+1+crcBytes)
	out = append(out, envelopeVersion)
	out = append(out, head[:len(head)-1]...)
	out = append(out, bodyKey...)
	out = append(out, e.Body...)
	out = append(out, '}')
	return binary.LittleEndian.AppendUint32(out, castagnoli(out)), nil
}

// checkEnvelope returns the JSON of an entry whose checksum holds.
func checkEnvelope(data []byte) ([]byte, error) {
	if len(data) < 1+crcBytes {
		return nil, fmt.Errorf("%d bytes are too short for a command", len(data))
	}
	content := data[:len(data)-crcBytes]
	if binary.LittleEndian.Uint32(data[len(content):]) != castagnoli(content) {
		return nil, fmt.Errorf("the command does not match its checksum")
	}
	if content[0] != envelopeVersion {
		return nil, fmt.Errorf("the command has version %d, this program knows %d: start the newer version", content[0], envelopeVersion)
	}
	return content[1:], nil
}

// decodeCommand reads the bytes of a log entry.
func decodeCommand(data []byte) (envelope, command, error) {
	content, err := checkEnvelope(data)
	if err != nil {
		return envelope{}, nil, err
	}
	if e, ok := splitEnvelope(content); ok {
		if cmd, err := e.command(decodeExactly); err == nil {
			return e, cmd, nil
		}
	}
	var e envelope
	if err := decodeJSON(content, &e); err != nil {
		return envelope{}, nil, fmt.Errorf("reading a command: %w", err)
	}
	cmd, err := e.command(decodeJSON)
	if err != nil {
		return envelope{}, nil, err
	}
	return e, cmd, nil
}

// splitEnvelope takes an envelope apart where encodeEnvelope has put it together.
// The body is not looked at: the envelope is one if that is one JSON value.
func splitEnvelope(content []byte) (envelope, bool) {
	head, body, found := bytes.Cut(content, []byte(bodyKey))
	body, closed := bytes.CutSuffix(body, []byte{'}'})
	var h envelopeHead
	if !found || !closed || decodeExactly(append(bytes.Clone(head), '}'), &h) != nil {
		return envelope{}, false
	}
	return envelope{h.Kind, h.At, h.Request, body}, true
}

// command decodes the body.
func (e *envelope) command(decode func(data []byte, into any) error) (command, error) {
	cmd := newCommand(e.Kind)
	if cmd == nil {
		return nil, fmt.Errorf("unknown command %q: was it written by a newer version?", e.Kind)
	}
	if err := decode(e.Body, cmd); err != nil {
		return nil, fmt.Errorf("reading command %s: %w", e.Kind, err)
	}
	return cmd, nil
}
