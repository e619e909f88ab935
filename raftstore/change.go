// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"bytes"

	"go.etcd.io/bbolt"

	"muster/fleet"
)

// change is what one command sees and does: the state before it, overlaid with
// its own writes. get sees those writes; scan does not.
type change struct {
	view
	// index is the entry's, now the log's time in Unix seconds.
	index uint64
	now   int64

	writes map[string]write
	order  []string
	tables map[fleet.Table]bool
}

// write sets content, or deletes the key when content is nil.
type write struct {
	bucket       bucket
	key, content []byte
}

func newChange(tx *bbolt.Tx, index uint64, now int64) *change {
	return &change{
		view: view{tx}, index: index, now: now,
		writes: make(map[string]write), tables: make(map[fleet.Table]bool),
	}
}

func (c *change) get(b bucket, key []byte) []byte {
	if w, ok := c.writes[writeID(b, key)]; ok {
		return w.content
	}
	return c.view.get(b, key)
}

func writeID(b bucket, key []byte) string { return string(b) + "\x00" + string(key) }

// put stores content, which must not be nil; index keys have an empty one.
func (c *change) put(b bucket, key, content []byte) {
	if content == nil {
		content = []byte{}
	}
	c.record(write{b, bytes.Clone(key), content})
}

// store stores value as JSON.
func (c *change) store(b bucket, key string, value any) {
	c.record(write{b, []byte(key), mustEncode(value)})
}

func (c *change) remove(b bucket, key []byte) {
	c.record(write{b, bytes.Clone(key), nil})
}

func (c *change) record(w write) {
	id := writeID(w.bucket, w.key)
	if _, ok := c.writes[id]; !ok {
		c.order = append(c.order, id)
	}
	c.writes[id] = w
}

// touch wakes the watchers of a table once the change is committed.
func (c *change) touch(t fleet.Table) { c.tables[t] = true }

// batch applies entries in one transaction and keeps the state's hash.
type batch struct {
	tx   *bbolt.Tx
	pos  position
	conf configuration
	hash stateHash
	// dirty holds the keys written so far, unhashed those of them whose old hash
	// is taken off and whose new one is not yet added.
	dirty, unhashed map[string]write
	// marks are the hashes in the middle of the batch; see hashHistory.
	marks  []HashAt
	tables map[fleet.Table]bool
	// refused counts this batch's refusals by code.
	refused map[fleet.Code]int
}

func newBatch(tx *bbolt.Tx) (*batch, error) {
	b := &batch{
		tx: tx, dirty: make(map[string]write), unhashed: make(map[string]write),
		tables: make(map[fleet.Table]bool), refused: make(map[fleet.Code]int),
	}
	b.pos, b.conf = readPosition(view{tx})
	var err error
	b.hash, err = parseHash(b.pos.Hash)
	return b, err
}

// apply carries out one command and returns its answer. An error is the
// storage's; a refusal is an answer.
func (b *batch) apply(index uint64, e envelope, cmd command) (answer, error) {
	last, _ := load[int64](view{b.tx}, bucketMeta, metaClock)
	now := max(last, e.At)
	c := newChange(b.tx, index, now)
	if e.Request != "" {
		if old, ok := load[keptAnswer](c, bucketRequests, e.Request); ok {
			return old.Answer, nil
		}
	}
	body, err := cmd.decide(c)
	var ans answer
	if err != nil {
		if ans.Refusal, err = asRefusal(err); err != nil {
			return answer{}, err
		}
		b.refused[ans.Refusal.Code]++
		c = newChange(b.tx, index, now)
	} else if body != nil {
		ans.Body = mustEncode(body)
	}
	if now != last {
		c.store(bucketMeta, metaClock, now)
	}
	if e.Request != "" {
		c.keepAnswer(e.Request, ans)
	}
	return ans, b.flush(c)
}

// flush moves a command's writes into the transaction.
func (b *batch) flush(c *change) error {
	for _, id := range c.order {
		w := c.writes[id]
		bkt := b.tx.Bucket([]byte(w.bucket))
		if _, seen := b.unhashed[id]; !seen {
			if old := bkt.Get(w.key); old != nil {
				b.hash.sub(itemHash(w.bucket, w.key, openValue(w.bucket, w.key, old)))
			}
		}
		b.dirty[id], b.unhashed[id] = w, w
		var err error
		if w.content == nil {
			err = bkt.Delete(w.key)
		} else {
			err = bkt.Put(w.key, sealValue(w.bucket, w.key, w.content))
		}
		if err != nil {
			return err
		}
	}
	for t := range c.tables {
		b.tables[t] = true
	}
	return nil
}

// settle brings the hash up to date.
func (b *batch) settle() {
	for _, w := range b.unhashed {
		if w.content != nil {
			b.hash.add(itemHash(w.bucket, w.key, w.content))
		}
	}
	clear(b.unhashed)
}

// mark notes the hash before the entry at index, if that is the first one at or
// above a multiple of markEvery: every node does so at the same entries, however
// its batches are cut.
func (b *batch) mark(index uint64) {
	if at := index - index%markEvery; at > b.pos.Index {
		b.settle()
		b.marks = append(b.marks, HashAt{at - 1, b.hash.String()})
	}
}

// finish writes how far the state is now. Nothing may be applied after it.
func (b *batch) finish() error {
	b.settle()
	b.pos.FileFormat = stateFileFormat
	b.pos.Hash = b.hash.String()
	return putLocal(b.tx, keyPosition, b.pos)
}
