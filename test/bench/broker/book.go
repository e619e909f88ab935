// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"muster/test/bench/records"
)

// Book is what the numbers of records told.
type Book struct {
	Marked   int64 `json:"marked"`    // records with a number
	Unique   int64 `json:"unique"`    // of them, the first time
	Disorder int64 `json:"disorder"`  // of them, came after a greater number of their agent
	Unread   int64 `json:"unread"`    // batches that could not be read
	DelayP50 int64 `json:"delay_p50"` // microseconds from sending to here, of those since the last Stats
	DelayP99 int64 `json:"delay_p99"`
	DelayMax int64 `json:"delay_max"`
	Delays   int64 `json:"delays"` // how many these are of
}

// maxDelays bounds what is kept between two readings.
const maxDelays = 1 << 20

type book struct {
	mu     sync.Mutex
	now    Book
	agents map[uint32]*seen
	delays []int64 // microseconds
}

// seen are the numbers of one agent.
type seen struct {
	bits []uint64
	next uint64 // one above the greatest
}

func newBook() *book { return &book{agents: make(map[uint32]*seen)} }

// read returns the book; delays start anew.
func (k *book) read() Book {
	k.mu.Lock()
	n, delays := k.now, k.delays
	k.delays = nil
	k.mu.Unlock()
	slices.Sort(delays)
	if c := len(delays); c > 0 {
		n.Delays, n.DelayP50, n.DelayP99, n.DelayMax = int64(c), delays[c/2], delays[c*99/100], delays[c-1]
	}
	return n
}

// enter takes a record batch of format v2.
func (k *book) enter(batch []byte) {
	now := time.Now().UnixNano()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !eachValue(batch, func(value []byte) { k.one(value, now) }) {
		k.now.Unread++
	}
}

// one needs the lock.
func (k *book) one(value []byte, now int64) {
	m, ok := records.Find(value)
	if !ok {
		return
	}
	k.now.Marked++
	if len(k.delays) < maxDelays {
		k.delays = append(k.delays, (now-m.Sent)/1000)
	}
	s := k.agents[m.Agent]
	if s == nil {
		s = &seen{}
		k.agents[m.Agent] = s
	}
	word, bit := int(m.Number/64), uint64(1)<<(m.Number%64) //nolint:gosec // 48 bits
	if word >= len(s.bits) {
		s.bits = append(s.bits, make([]uint64, word+1-len(s.bits)+64)...)
	}
	if s.bits[word]&bit != 0 {
		return
	}
	s.bits[word] |= bit
	k.now.Unique++
	if m.Number < s.next {
		k.now.Disorder++
	}
	s.next = max(s.next, m.Number+1)
}

// eachValue calls fn for the value of each record of an uncompressed batch.
func eachValue(batch []byte, fn func(value []byte)) bool {
	if len(batch) < batchHeaderBytes || batch[attributesAt+1]&7 != 0 {
		return false
	}
	count := binary.BigEndian.Uint32(batch[countAt:])
	b := batch[batchHeaderBytes:]
	ok := true
	varint := func() int {
		v, n := binary.Varint(b)
		if n <= 0 {
			ok = false
			return 0
		}
		b = b[n:]
		return int(v)
	}
	take := func(n int) []byte {
		if n < 0 || n > len(b) {
			ok = ok && n == -1
			return nil
		}
		v := b[:n]
		b = b[n:]
		return v
	}
	for range count {
		rest := take(varint())
		after := b
		b = rest
		take(1)
		varint()
		varint()
		take(varint())
		value := take(varint())
		if !ok || rest == nil {
			return false
		}
		fn(value)
		b = after
	}
	return true
}
