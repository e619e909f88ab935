// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import "sync"

// maxNumbers bounds the agents whose numbers are kept: three times the sessions
// that a node takes unless it is told otherwise. Beyond it all are forgotten.
const maxNumbers = 1 << 16

// agentNumbers keeps the numbers of the agents that this node is asked about.
// A number is given once and never again, so what is known stays true until
// another state is installed, which begins with an empty one.
type agentNumbers struct {
	mu   sync.RWMutex
	byID map[string]uint32
}

func (a *agentNumbers) get(id string) (n uint32, ok bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	n, ok = a.byID[id]
	return n, ok
}

func (a *agentNumbers) put(id string, n uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byID == nil || len(a.byID) >= maxNumbers {
		a.byID = make(map[string]uint32)
	}
	a.byID[id] = n
}

// numberOf returns 0 for an unknown agent, and while the state cannot be read.
func (s *Store) numberOf(id string) uint32 {
	known := s.fsm.numbers.Load() // before the state: see fsm.restore
	if n, ok := known.get(id); ok {
		return n
	}
	n := uint32(0)
	err := s.read(func(v view) error {
		n = agentNumber(v, id)
		return nil
	})
	if err != nil {
		return 0
	}
	if n != 0 {
		known.put(id, n)
	}
	return n
}
