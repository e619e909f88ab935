// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"muster/fleet"
)

// op is one call on a register, which begins as "". A write whose outcome is
// unknown may happen at any time after its call, or never.
type op struct {
	write     bool
	value     string
	call, ret time.Duration // ret is math.MaxInt64 when the outcome is unknown
}

// register says what a register does: a read gives what was written last.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		o := input.(op)
		return o.write || o.value == state, o.value
	},
}

// linearizable tells whether the operations can have happened one after the
// other, each between its call and its return. What never returned is at liberty
// to happen after all others.
func linearizable(ops []op) bool {
	var history []porcupine.Operation
	for _, o := range ops {
		history = append(history, porcupine.Operation{Input: o, Call: int64(o.call), Return: int64(o.ret)})
	}
	return porcupine.CheckOperations(register, history)
}

func TestLinearizableChecker(t *testing.T) {
	const never = math.MaxInt64
	for name, c := range map[string]struct {
		ops  []op
		want bool
	}{
		"in order":            {[]op{{true, "a", 0, 1}, {false, "a", 2, 3}}, true},
		"stale read":          {[]op{{true, "a", 0, 1}, {true, "b", 2, 3}, {false, "a", 4, 5}}, false},
		"overlap":             {[]op{{true, "a", 0, 5}, {false, "", 1, 2}, {false, "a", 3, 4}}, true},
		"back again":          {[]op{{true, "a", 0, 9}, {false, "a", 1, 2}, {false, "", 3, 4}}, false},
		"unknown, happened":   {[]op{{true, "a", 0, never}, {false, "", 1, 2}, {false, "a", 3, 4}}, true},
		"unknown, undone":     {[]op{{true, "a", 0, never}, {false, "a", 1, 2}, {false, "", 3, 4}}, false},
		"done twice":          {[]op{{true, "a", 0, never}, {true, "b", 1, 2}, {false, "a", 3, 4}, {true, "c", 5, 6}, {false, "a", 7, 8}}, false},
		"two readers, orders": {[]op{{true, "a", 0, 9}, {true, "b", 0, 9}, {false, "a", 1, 2}, {false, "b", 3, 4}, {false, "a", 5, 6}}, false},
	} {
		if got := linearizable(c.ops); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// registers collects what clients did to each register.
type registers struct {
	w     *world
	begin time.Time

	mu  sync.Mutex
	ops map[string][]op
}

func (h *registers) note(register string, write bool, value string, call time.Duration, err error) {
	ret := time.Since(h.begin)
	if err != nil {
		if !write {
			return
		}
		ret = math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops[register] = append(h.ops[register], op{write, value, call, ret})
}

// client calls through node number i: it writes values of its own and reads
// linearizably.
func (h *registers) client(ctx context.Context, i int) {
	for k := 0; ctx.Err() == nil; k++ {
		pass(time.Duration(rand.IntN(300)) * time.Millisecond)
		m := h.w.member(i)
		if m == nil {
			continue
		}
		value := fmt.Sprintf("v%d-%d", i, k)
		call := time.Since(h.begin)
		// A caller that gives up early leaves its write open.
		within, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(6000))*time.Millisecond)
		switch register := fmt.Sprint("a", rand.IntN(2)); rand.IntN(4) {
		case 0:
			value := tags()[rand.IntN(8)]
			h.note(register, true, value, call, tag(within, m, register, value))
		case 1:
			_, err := m.SetDefaultConfig(within, fleet.DefaultConfig{Version: value, Items: configItems(value)})
			h.note("config", true, value, call, err)
		case 2:
			value, err := read(within, m, func() (string, error) {
				d, err := m.Desired(register)
				return strings.Join(d.Tags, ","), err
			})
			h.note(register, false, value, call, err)
		case 3:
			value, err := read(within, m, func() (string, error) {
				conf, err := m.DefaultConfig()
				return conf.Version, err
			})
			h.note("config", false, value, call, err)
		}
		cancel()
	}
}

// tags are the values of the registers that are agents.
func tags() (list []string) {
	for i := range 8 {
		list = append(list, fmt.Sprint("t", i))
	}
	return list
}

// tag makes value the agent's only tag.
func tag(ctx context.Context, m *member, agent, value string) error {
	others := slices.DeleteFunc(tags(), func(t string) bool { return t == value })
	_, err := m.TagAgents(ctx, []string{agent}, []string{value}, others)
	return err
}

func read(ctx context.Context, m *member, get func() (string, error)) (string, error) {
	index, err := m.ReadIndex(ctx)
	if err != nil {
		return "", err
	}
	if err := m.WaitApplied(ctx, index); err != nil {
		return "", err
	}
	return get()
}

// Concurrent clients on all nodes see tags and the config as registers, while
// leaders are killed, cut off, and answers are lost.
func TestLinearizable(t *testing.T) {
	for _, nodes := range []int{3, 5} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			bubble(t, func(w *world) {
				all := w.form(nodes)
				reportOne(w.t, all[0].Store, "a0")
				reportOne(w.t, all[0].Store, "a1")
				w.onAnswer(func(_, _ *member) error {
					if rand.IntN(10) == 0 {
						return errReset
					}
					return nil
				})
				h := &registers{w: w, begin: time.Now(), ops: make(map[string][]op)}
				ctx, cancel := context.WithCancel(w.t.Context())
				var wg sync.WaitGroup
				defer wg.Wait()
				defer cancel()
				for i := range 2 * nodes {
					wg.Go(func() { h.client(ctx, 1+i%nodes) })
				}
				for range kills(5) {
					pass(time.Second)
					if leader := w.leader(); leader != nil && rand.IntN(3) > 0 {
						leader.kill()
						leader.again()
						pass(time.Second)
					} else if leader != nil {
						leader.isolate()
						pass(3 * time.Second)
						leader.rejoin()
					}
				}
				cancel()
				wg.Wait()
				w.onAnswer(nil)
				w.settled(nodes)
				h.check()
			})
		})
	}
}

func (h *registers) check() {
	for register, ops := range h.ops {
		open := 0
		for _, o := range ops {
			if o.ret == math.MaxInt64 {
				open++
			}
		}
		h.w.t.Logf("%s: %d operations, %d of them writes without an answer", register, len(ops), open)
		if len(ops) < 20 {
			h.w.t.Errorf("%s: that is too few", register)
		}
		if !linearizable(ops) {
			h.w.t.Errorf("%s is no register: %+v", register, ops)
		}
	}
}
