// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxSeq bounds what one agent may cost a Tally: a bit for each number.
const maxSeq = 1 << 28

// Tally counts, from what came out at the other end, which data records of
// simulated agents arrived, are missing, came twice or late. It keeps one bit for
// each record. It is safe for concurrent use.
type Tally struct {
	run string

	mu     sync.Mutex
	agents map[string]*seen
}

type seen struct {
	bits       []uint64 // by sequence number
	last       uint64   // highest number that came
	expected   uint64
	distinct   uint64
	duplicates uint64
	outOfOrder uint64
}

// Counts are of one agent or of many.
type Counts struct {
	Received   uint64 `json:"received"`     // distinct records
	Lost       uint64 `json:"lost"`         // numbers up to the highest seen or expected that never came
	Duplicates uint64 `json:"duplicates"`   // copies beyond the first
	OutOfOrder uint64 `json:"out_of_order"` // first copies that came after a higher number
}

// NewTally counts the records of one run (Fleet.RunID); an empty run means
// whatever comes, which is right when a topic has seen one run only.
func NewTally(run string) *Tally {
	return &Tally{run: run, agents: make(map[string]*seen)}
}

// Add takes the body of a record of this agent. It reports false, and counts
// nothing, when the body is no numbered record of the run.
func (t *Tally) Add(agentID string, body []byte) bool {
	run, seq, ok := readNumber(body)
	if !ok || (t.run != "" && run != t.run) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.agent(agentID)
	word, bit := seq/64, uint64(1)<<(seq%64)
	if n := int(word) + 1; n > len(a.bits) {
		a.bits = append(a.bits, make([]uint64, n-len(a.bits))...)
	}
	switch {
	case a.bits[word]&bit != 0:
		a.duplicates++
		return true
	case seq < a.last:
		a.outOfOrder++
	}
	a.bits[word] |= bit
	a.distinct++
	a.last = max(a.last, seq)
	return true
}

// Expect says how many records this agent sent, so that missing ones at the end
// count as lost too.
func (t *Tally) Expect(agentID string, records uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.agent(agentID).expected = records
}

// agent needs the lock.
func (t *Tally) agent(id string) *seen {
	a := t.agents[id]
	if a == nil {
		a = &seen{}
		t.agents[id] = a
	}
	return a
}

func (a *seen) counts() Counts {
	want := max(a.last, a.expected)
	return Counts{Received: a.distinct, Lost: want - a.distinct, Duplicates: a.duplicates, OutOfOrder: a.outOfOrder}
}

// Agent returns the counts of one agent; all are zero for an unknown one.
func (t *Tally) Agent(id string) Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.agents[id]; a != nil {
		return a.counts()
	}
	return Counts{}
}

// Total returns the sum over all agents.
func (t *Tally) Total() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	var sum Counts
	for _, a := range t.agents {
		c := a.counts()
		sum.Received += c.Received
		sum.Lost += c.Lost
		sum.Duplicates += c.Duplicates
		sum.OutOfOrder += c.OutOfOrder
	}
	return sum
}

// Missing lists agents with lost records, most lost first, at most limit of them.
func (t *Tally) Missing(limit int) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []string
	for id, a := range t.agents {
		if a.counts().Lost > 0 {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(x, y string) int {
		return cmp.Or(cmp.Compare(t.agents[y].counts().Lost, t.agents[x].counts().Lost), cmp.Compare(x, y))
	})
	return ids[:min(limit, len(ids))]
}

// LostNumbers lists the first missing sequence numbers of an agent, at most limit.
func (t *Tally) LostNumbers(id string, limit int) []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.agents[id]
	if a == nil {
		return nil
	}
	var lost []uint64
	want := max(a.last, a.expected)
	for word := uint64(0); word*64 <= want && len(lost) < limit; word++ {
		missing := ^uint64(0)
		if word < uint64(len(a.bits)) {
			missing = ^a.bits[word]
		}
		for ; missing != 0 && len(lost) < limit; missing &= missing - 1 {
			seq := word*64 + uint64(bits.TrailingZeros64(missing))
			if seq >= 1 && seq <= want {
				lost = append(lost, seq)
			}
		}
	}
	return lost
}

// readNumber finds sim_run and sim_seq in a marshalled Item without building it.
func readNumber(body []byte) (run string, seq uint64, ok bool) {
	for len(body) > 0 {
		number, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return "", 0, false
		}
		body = body[n:]
		if number != 1 || kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, body); n < 0 {
				return "", 0, false
			}
			body = body[n:]
			continue
		}
		pair, n := protowire.ConsumeBytes(body)
		if n < 0 {
			return "", 0, false
		}
		body = body[n:]
		switch key, value := readPair(pair); string(key) {
		case fieldRun:
			run = string(value)
		case fieldSeq:
			v, err := strconv.ParseUint(string(value), 10, 64)
			if err != nil || v == 0 || v > maxSeq {
				return "", 0, false
			}
			seq, ok = v, true
		}
	}
	return run, seq, ok
}

// readPair splits one entry of Item's map; a damaged entry has no key.
func readPair(pair []byte) (key, value []byte) {
	for len(pair) > 0 {
		number, kind, n := protowire.ConsumeTag(pair)
		if n < 0 || kind != protowire.BytesType {
			return nil, nil
		}
		part, m := protowire.ConsumeBytes(pair[n:])
		if m < 0 {
			return nil, nil
		}
		pair = pair[n+m:]
		switch number {
		case 1:
			key = part
		case 2:
			value = part
		}
	}
	return key, value
}
