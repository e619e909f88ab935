// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
	"muster/test/process"
)

const (
	// callWithin bounds a client's patience: a node answers within 10 s, but a
	// stopped one never.
	callWithin = 12 * time.Second
	// valuesEach is how many values a register of tags sees: each write adds one
	// and takes the others away.
	valuesEach = 40
	// checkWithin bounds the search for an order of a register's history.
	checkWithin = time.Minute
	configKey   = "config"
)

// access is what a client asks of a register: to write a value, or to read it.
type access struct {
	write bool
	value string
}

// history is what clients did to registers, and what they were told. The
// registers are the default config and the tags of agents.
type history struct {
	c      *process.Cluster
	agents []string // one register each, used one after the other
	began  time.Time
	rest   time.Duration // between two calls of a client, on the average

	mu        sync.Mutex
	ops       map[string][]porcupine.Operation // by register
	values    map[string]int                   // values written so far, by kind of register
	revisions map[string]uint64                // of the config, by version
	wrong     []string
}

func newHistory(c *process.Cluster, agents []string, rest time.Duration) *history {
	return &history{
		c: c, agents: agents, began: time.Now(), rest: rest,
		ops: make(map[string][]porcupine.Operation), values: make(map[string]int), revisions: make(map[string]uint64),
	}
}

// client works through one node until ctx ends. The call that it waits for then
// is waited for.
func (h *history) client(ctx context.Context, number int, n *process.Node, token string) {
	client := n.Linearizable(token, callWithin)
	for ctx.Err() == nil {
		switch rand.IntN(4) {
		case 0:
			h.writeConfig(client, number)
		case 1:
			h.readConfig(client, number)
		case 2:
			h.writeTag(client, number)
		case 3:
			h.readTag(client, number)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rand.Int64N(int64(2 * h.rest)))):
		}
	}
}

func (h *history) complain(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wrong = append(h.wrong, fmt.Sprintf(format, args...))
}

// next numbers the values of one kind, from 0.
func (h *history) next(kind string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values[kind]++
	return h.values[kind] - 1
}

// note keeps a call. A read without an answer says nothing; a write without one
// may happen at any time from its call on.
func (h *history) note(client int, register string, a access, answer string, called time.Time, err error) {
	end := int64(time.Since(h.began))
	if err != nil {
		if !a.write {
			return
		}
		end = math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops[register] = append(h.ops[register], porcupine.Operation{
		ClientId: client, Input: a, Output: answer, Call: int64(called.Sub(h.began)), Return: end,
	})
}

// configVersion is how the config's values are written; agents see them, too.
func configVersion(k int) string { return fmt.Sprintf("1.0.0.%d", k) }

func (h *history) writeConfig(client *apiclient.Client, number int) {
	version := configVersion(100 + h.next(configKey))
	var conf apiv1.DefaultConfig
	called := time.Now()
	err := client.Do(context.Background(), http.MethodPut, "/v1/config/default", apiv1.DefaultConfig{
		Type: "agent", Version: version, Config: []apiv1.ConfigItem{
			{Name: "collector", Type: "exec", Version: version}, {Name: "driver", Type: "exec", Version: "1.0.0.1"},
		},
	}, &conf)
	h.note(number, configKey, access{write: true, value: version}, "", called, err)
	if err == nil && conf.Version == version {
		h.revision(conf)
	}
}

func (h *history) readConfig(client *apiclient.Client, number int) {
	called := time.Now()
	var conf apiv1.DefaultConfig
	err := client.Do(context.Background(), http.MethodGet, "/v1/config/default", nil, &conf)
	h.note(number, configKey, access{}, conf.Version, called, err)
	if err == nil {
		h.revision(conf)
	}
}

// revision learns in which order configs came.
func (h *history) revision(conf apiv1.DefaultConfig) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, known := h.revisions[conf.Version]; known && old != conf.Revision {
		h.wrong = append(h.wrong, fmt.Sprintf("config %s has revision %d and %d", conf.Version, old, conf.Revision))
	}
	h.revisions[conf.Version] = conf.Revision
}

func tagValue(k int) string { return fmt.Sprintf("r%d", k) }

func (h *history) writeTag(client *apiclient.Client, number int) {
	k := h.next("tag")
	if k/valuesEach >= len(h.agents) {
		return // every register is used up
	}
	agent, value := h.agents[k/valuesEach], tagValue(k%valuesEach)
	change := apiv1.TagChange{Add: []string{value}}
	for i := range valuesEach {
		if v := tagValue(i); v != value {
			change.Remove = append(change.Remove, v)
		}
	}
	called := time.Now()
	err := client.Do(context.Background(), http.MethodPost, "/v1/agents/"+agent+"/tags", change, nil)
	h.note(number, agent, access{write: true, value: value}, "", called, err)
}

func (h *history) readTag(client *apiclient.Client, number int) {
	h.mu.Lock()
	k := h.values["tag"]
	h.mu.Unlock()
	agent := h.agents[min(k/valuesEach, len(h.agents)-1)]
	called := time.Now()
	var have apiv1.Agent
	err := client.Do(context.Background(), http.MethodGet, "/v1/agents/"+agent, nil, &have)
	if len(have.Tags) > 1 {
		h.complain("agent %s has the tags %v, each write left one", agent, have.Tags)
	}
	h.note(number, agent, access{}, strings.Join(have.Tags, ","), called, err)
}

// register says what a register does.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		if a := input.(access); a.write {
			return true, a.value
		}
		return output.(string) == state.(string), state
	},
	DescribeOperation: func(input, output any) string {
		if a := input.(access); a.write {
			return "write " + a.value
		}
		return "read " + output.(string)
	},
}

// check wants every register to have been one: there is an order of all calls,
// within their times, that explains all answers.
func (h *history) check(t testing.TB) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.wrong {
		t.Error(w)
	}
	calls, open := 0, 0
	for name, ops := range h.ops {
		some := len(ops)
		ops = withoutUnseen(ops)
		calls, open = calls+some, open+some-len(ops)
		switch porcupine.CheckOperationsTimeout(register, ops, checkWithin) {
		case porcupine.Illegal:
			t.Errorf("%s is no register: %s", name, describe(ops))
		case porcupine.Unknown:
			t.Errorf("%s: no order of %d calls found, nor that there is none, within %s", name, len(ops), checkWithin)
		default:
		}
	}
	t.Logf("%d registers: %d calls, %d of them writes without an answer that nobody saw", len(h.ops), calls, open)
}

// withoutUnseen drops the writes without an answer whose value nobody read: they
// explain nothing, and there are many ways to put them in order. No value is
// written twice.
func withoutUnseen(ops []porcupine.Operation) []porcupine.Operation {
	seen := make(map[string]bool)
	for _, o := range ops {
		if !o.Input.(access).write {
			seen[o.Output.(string)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(ops), func(o porcupine.Operation) bool {
		return o.Return == math.MaxInt64 && !seen[o.Input.(access).value]
	})
}

func describe(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	for _, o := range ops {
		end := "no answer"
		if o.Return != math.MaxInt64 {
			end = time.Duration(o.Return).Round(time.Millisecond).String()
		}
		fmt.Fprintf(&b, "\n  %s to %s: client %d: %s", time.Duration(o.Call).Round(time.Millisecond), end, o.ClientId, register.DescribeOperation(o.Input, o.Output))
	}
	return b.String()
}
