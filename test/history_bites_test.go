// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"testing"
	"time"

	"muster/internal/agentpb"
)

// complaints counts what a check says, in the place of a test that would fail.
type complaints struct {
	testing.TB
	count int
}

func (*complaints) Helper()                 {}
func (*complaints) Logf(string, ...any)     {}
func (c *complaints) Error(...any)          { c.count++ }
func (c *complaints) Errorf(string, ...any) { c.count++ }

// TestHistoryBites holds made-up histories against the check: those that a
// register may have, and those that a stale read, a lost write and a write that
// happened after its refusal would leave.
func TestHistoryBites(t *testing.T) {
	type call struct {
		write      bool
		value      string
		from, to   int // milliseconds
		unanswered bool
	}
	write := func(v string, from, to int) call { return call{write: true, value: v, from: from, to: to} }
	read := func(v string, from, to int) call { return call{value: v, from: from, to: to} }
	open := func(v string, from int) call { return call{write: true, value: v, from: from, unanswered: true} }
	for name, tt := range map[string]struct {
		calls []call
		wrong bool
	}{
		"in order":                {calls: []call{read("", 0, 1), write("a", 2, 3), read("a", 4, 5)}},
		"at the same time":        {calls: []call{write("a", 0, 9), read("", 1, 2), read("a", 3, 4)}},
		"stale read":              {calls: []call{write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)}, wrong: true},
		"lost write":              {calls: []call{write("a", 0, 1), read("", 2, 3)}, wrong: true},
		"new, then old":           {calls: []call{write("a", 0, 1), write("b", 2, 9), read("b", 3, 4), read("a", 5, 6)}, wrong: true},
		"never written":           {calls: []call{read("x", 0, 1)}, wrong: true},
		"no answer, done later":   {calls: []call{open("a", 0), read("", 1, 2), read("a", 5, 6)}},
		"no answer, never done":   {calls: []call{open("a", 0), read("", 1, 2), read("", 5, 6)}},
		"no answer, done, undone": {calls: []call{open("a", 0), read("a", 1, 2), read("", 5, 6)}, wrong: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(nil, nil, 0)
			for i, c := range tt.calls {
				var err error
				if c.unanswered {
					err = errors.New("no answer")
				}
				h.note(i, "r", access{write: c.write, value: c.value}, c.value, h.began.Add(time.Duration(c.from)*time.Millisecond), err)
				if !c.unanswered {
					ops := h.ops["r"]
					ops[len(ops)-1].Return = int64(time.Duration(c.to) * time.Millisecond)
				}
			}
			said := &complaints{TB: t}
			h.check(said)
			if (said.count > 0) != tt.wrong {
				t.Errorf("%d complaints, wrong: %v", said.count, tt.wrong)
			}
		})
	}
}

// TestSightingsBite: an agent that is sent an older config than it had, or an
// empty one, is noticed.
func TestSightingsBite(t *testing.T) {
	h := newHistory(nil, nil, 0)
	h.revisions["1"], h.revisions["2"] = 10, 20
	for name, tt := range map[string]struct {
		sent  []string
		wrong bool
	}{
		"newer":         {sent: []string{"1", "2"}},
		"again":         {sent: []string{"2", "2"}},
		"unknown":       {sent: []string{"1", "3", "2"}},
		"older":         {sent: []string{"2", "1"}, wrong: true},
		"older, hidden": {sent: []string{"2", "3", "1"}, wrong: true},
		"empty":         {sent: []string{"1", ""}, wrong: true},
		"none":          {wrong: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := &sightings{}
			for _, v := range tt.sent {
				command := &agentpb.Command{}
				if v != "" {
					command.Config = []*agentpb.ConfigItem{{Name: "driver", Version: "1"}, {Name: "collector", Version: v}}
				}
				s.see("a", command)
			}
			said := &complaints{TB: t}
			s.check(said, h)
			if (said.count > 0) != tt.wrong {
				t.Errorf("%d complaints, wrong: %v", said.count, tt.wrong)
			}
		})
	}
}
