// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"encoding/binary"
	"math"
	"sync"
)

// producers hold what makes batches of idempotent producers count once.
type producers struct {
	mu   sync.Mutex
	last int64
	next map[producerKey]*sequenceState
}

type producerKey struct {
	producer  int64
	partition int32
}

// sequenceState is what is known of a producer in a partition.
type sequenceState struct {
	epoch       int16
	first, next int32 // of the last batch, and after it
}

// newID gives out a producer ID.
func (p *producers) newID() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	return p.last
}

// sequence returns 0 for a batch that is due, errDuplicate for the one that was
// taken last, and errOutOfOrder else.
func (p *producers) sequence(partition int32, header []byte) int16 {
	producer := int64(binary.BigEndian.Uint64(header[producerAt:])) //nolint:gosec // the wire's sign
	if producer < 0 {
		return 0
	}
	epoch := int16(binary.BigEndian.Uint16(header[epochAt:]))    //nolint:gosec // the wire's sign
	first := int32(binary.BigEndian.Uint32(header[sequenceAt:])) //nolint:gosec // the wire's sign
	count := int64(binary.BigEndian.Uint32(header[countAt:]))
	after := int32((int64(first) + count) & math.MaxInt32) //nolint:gosec // masked
	p.mu.Lock()
	defer p.mu.Unlock()
	key := producerKey{producer, partition}
	s := p.next[key]
	switch {
	case s == nil:
		if p.next == nil {
			p.next = make(map[producerKey]*sequenceState)
		}
		p.next[key] = &sequenceState{epoch, first, after}
	case s.epoch == epoch && s.first == first && s.next == after:
		return errDuplicate
	case s.epoch != epoch && first == 0, s.epoch == epoch && s.next == first:
		*s = sequenceState{epoch, first, after}
	default:
		return errOutOfOrder
	}
	return 0
}
