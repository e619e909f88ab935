// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"
)

// bucket is one of the state's flat tables.
type bucket string

// The buckets. DESIGN.md says what each holds under which key. All but
// bucketLocal are part of the replicated state and of its hash.
const (
	bucketLocal        bucket = "local"
	bucketMeta         bucket = "meta"
	bucketOpaque       bucket = "opaque"
	bucketRequests     bucket = "requests"
	bucketRequestTimes bucket = "request_times"
	bucketUsers        bucket = "users"
	bucketTokens       bucket = "tokens"
	bucketTokenHashes  bucket = "token_hashes"
	bucketTokenUsers   bucket = "token_users"
	bucketTokenExpiry  bucket = "token_expiry"
	bucketKeys         bucket = "keys"
	bucketConfigs      bucket = "configs"
	bucketAgents       bucket = "agents"
	bucketAgentIDs     bucket = "agent_ids"
	bucketNumbers      bucket = "numbers"
	bucketDesired      bucket = "desired"
	bucketTags         bucket = "tags"
	bucketTagAgents    bucket = "tag_agents"
	bucketTasks        bucket = "tasks"
	bucketTaskCommands bucket = "task_commands"
	bucketTaskSets     bucket = "task_sets"
	bucketTaskResults  bucket = "task_results"
	bucketTaskTokens   bucket = "task_tokens"
	bucketTaskDue      bucket = "task_due"
	bucketTaskEnded    bucket = "task_ended"
)

// replicatedBuckets lists every bucket that all nodes must agree on.
func replicatedBuckets() []bucket {
	return []bucket{
		bucketMeta, bucketOpaque, bucketRequests, bucketRequestTimes,
		bucketUsers, bucketTokens, bucketTokenHashes, bucketTokenUsers, bucketTokenExpiry, bucketKeys,
		bucketConfigs, bucketAgents, bucketAgentIDs, bucketNumbers, bucketDesired, bucketTags, bucketTagAgents,
		bucketTasks, bucketTaskCommands, bucketTaskSets, bucketTaskResults, bucketTaskTokens, bucketTaskDue, bucketTaskEnded,
	}
}

const crcBytes = 4

func castagnoli(parts ...[]byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	var sum uint32
	for _, p := range parts {
		sum = crc32.Update(sum, table, p)
	}
	return sum
}

// sealValue appends the checksum that every value carries. It covers bucket and
// key too, so that a value under another's key is noticed.
func sealValue(b bucket, key, content []byte) []byte {
	out := make([]byte, 0, len(content)+crcBytes)
	out = append(out, content...)
	return binary.LittleEndian.AppendUint32(out, valueSum(b, key, content))
}

func valueSum(b bucket, key, content []byte) uint32 {
	return castagnoli([]byte(b), []byte{0}, key, []byte{0}, content)
}

// damage is the panic of a reader that met bytes which cannot be right. It is
// recovered where transactions begin (see stateFile), like bbolt's own panics.
type damage struct{ detail string }

func (d damage) Error() string { return d.detail }

// openValue returns the content of a stored value; it panics with damage.
func openValue(b bucket, key, raw []byte) []byte {
	if len(raw) >= crcBytes {
		content := raw[:len(raw)-crcBytes]
		if binary.LittleEndian.Uint32(raw[len(content):]) == valueSum(b, key, content) {
			return content
		}
	}
	panic(damage{fmt.Sprintf("the value of %q in bucket %s does not match its checksum", key, b)})
}

// reader is a consistent state. What it returns is only valid, and must not be
// changed, until its transaction ends.
type reader interface {
	// get returns nil if there is no such key.
	get(b bucket, key []byte) []byte
	// scan calls fn for keys from `from` on, in order, until it returns false.
	scan(b bucket, from []byte, fn func(key, content []byte) bool)
}

// view reads through one bbolt transaction.
type view struct{ tx *bbolt.Tx }

func (v view) bucket(b bucket) *bbolt.Bucket {
	if found := v.tx.Bucket([]byte(b)); found != nil {
		return found
	}
	panic(damage{fmt.Sprintf("bucket %s is missing", b)})
}

func (v view) get(b bucket, key []byte) []byte {
	raw := v.bucket(b).Get(key)
	if raw == nil {
		return nil
	}
	return openValue(b, key, raw)
}

func (v view) scan(b bucket, from []byte, fn func(key, content []byte) bool) {
	c := v.bucket(b).Cursor()
	for k, raw := c.Seek(from); k != nil; k, raw = c.Next() {
		if !fn(k, openValue(b, k, raw)) {
			return
		}
	}
}

// scanDown calls fn for the keys below `before`, the highest first; an empty
// before begins at the end.
func (v view) scanDown(b bucket, before []byte, fn func(key, content []byte) bool) {
	c := v.bucket(b).Cursor()
	var k, raw []byte
	if len(before) == 0 {
		k, raw = c.Last()
	} else {
		if k, _ = c.Seek(before); k == nil {
			k, raw = c.Last()
		} else {
			k, raw = c.Prev()
		}
	}
	for ; k != nil; k, raw = c.Prev() {
		if !fn(k, openValue(b, k, raw)) {
			return
		}
	}
}

// scanPrefix calls fn for the keys that begin with prefix, with the rest of each.
func scanPrefix(r reader, b bucket, prefix []byte, fn func(rest, content []byte) bool) {
	r.scan(b, prefix, func(k, content []byte) bool {
		rest, ok := bytes.CutPrefix(k, prefix)
		return ok && fn(rest, content)
	})
}

// load decodes the JSON under key; ok is false if there is none.
func load[T any](r reader, b bucket, key string) (value T, ok bool) {
	content := r.get(b, []byte(key))
	if content == nil {
		return value, false
	}
	mustDecode(b, []byte(key), content, &value)
	return value, true
}

// mustDecode panics with damage: a value whose checksum holds was written by
// us, so one that cannot be read is of a newer program or of a broken one.
func mustDecode(b bucket, key, content []byte, into any) {
	if err := decodeJSON(content, into); err != nil {
		panic(damage{fmt.Sprintf("the value of %q in bucket %s cannot be read (was it written by a newer version?): %v", key, b, err)})
	}
}

// decodeJSON refuses unknown fields: ignoring them would make nodes of
// different versions disagree in silence.
func decodeJSON(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return fmt.Errorf("more than one JSON value")
	}
	return nil
}

// decodeExactly is decodeJSON for data with nothing before or behind the value;
// decodeJSON passes over a closing bracket too many.
func decodeExactly(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.InputOffset() != int64(len(data)) {
		return fmt.Errorf("more than one JSON value")
	}
	return nil
}

// encodeJSON leaves <, > and & as they are: commands hold scripts.
func encodeJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'}), nil
}

// mustEncode is for our own types, which always encode.
func mustEncode(v any) []byte {
	data, err := encodeJSON(v)
	if err != nil {
		panic(err)
	}
	return data
}

// joinKey puts a zero byte between the parts; none of them may hold one.
func joinKey(parts ...string) []byte {
	var out []byte
	for i, p := range parts {
		if i > 0 {
			out = append(out, 0)
		}
		out = append(out, p...)
	}
	return out
}

// timeKey orders by time first.
func timeKey(at int64, rest string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(max(at, 0))), rest...)
}

// splitTimeKey takes a key of timeKey apart.
func splitTimeKey(key []byte) (at int64, rest string) {
	if len(key) < 8 {
		panic(damage{fmt.Sprintf("key %q is too short to hold a time", key)})
	}
	return int64(binary.BigEndian.Uint64(key)), string(key[8:])
}

func numberKey(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
