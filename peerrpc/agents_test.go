// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"muster/fleet"
	"muster/peerrpc"
	"muster/peerrpc/peerrpcpb"
)

// agents is a peerrpc.AgentHandler of functions.
type agents struct {
	search   func(fleet.AgentSearch) (fleet.AgentHits, error)
	sessions func([]string) ([]fleet.Session, error)
	claim    func([]fleet.Claim) ([]fleet.Claim, error)
	reset    func([]string) ([]string, error)
}

func (a *agents) Search(_ context.Context, s fleet.AgentSearch) (fleet.AgentHits, error) {
	return a.search(s)
}

func (a *agents) Sessions(_ context.Context, ids []string) ([]fleet.Session, error) {
	return a.sessions(ids)
}

func (a *agents) Claim(_ context.Context, claims []fleet.Claim) ([]fleet.Claim, error) {
	return a.claim(claims)
}

func (a *agents) Reset(_ context.Context, ids []string) ([]string, error) { return a.reset(ids) }

// withAgents starts two nodes, of which b answers with h, and returns the client
// of a that calls b.
func (w *world) withAgents(h peerrpc.AgentHandler) *peerrpc.Client {
	a := w.start("a", "10.0.0.1")
	b := w.start("b", "10.0.0.2", func(n *node) { n.opts.Agents = h })
	return a.port.Client(b.id)
}

func TestSearch(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		want := fleet.AgentSearch{
			Filters: []fleet.Filter{{Condition: "$or", Keys: []fleet.FilterKey{{Key: "cpu", Rules: []fleet.FilterRule{{Operator: "$in", Value: []any{1.5, "x", nil, true}}}}}}},
			Order:   "cpu", Descending: true, Limit: 7,
		}
		hits := fleet.AgentHits{Held: []byte{1, 2}, Matching: []byte{3}, Upto: "z", Hits: []fleet.AgentHit{
			{AgentID: "a", Number: 1, Epoch: 1<<63 + 5, Value: 0.1},
			{AgentID: "b", Value: "text"},
			{AgentID: "c", Value: []any{"x", 2.0}},
			{AgentID: "d"},
			{AgentID: "e", Value: false},
		}}
		h := &agents{search: func(got fleet.AgentSearch) (fleet.AgentHits, error) {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the search that came (-want +got):\n%s", diff)
			}
			return hits, nil
		}}
		c := w.withAgents(h)
		got, err := c.Search(t.Context(), want)
		if diff := cmp.Diff(hits, got); err != nil || diff != "" {
			t.Errorf("%v, hits (-want +got):\n%s", err, diff)
		}
		for name, s := range map[string]fleet.AgentSearch{
			"limit": {Limit: fleet.MaxSearchHits + 1}, "walk": {Walk: 5}, "order": {Walk: 5, Limit: 1, Order: "x"}, "negative": {Walk: -1},
		} {
			if _, err := c.Search(t.Context(), s); !errors.Is(err, fleet.ErrInvalid) {
				t.Errorf("%s: %v, want a refusal", name, err)
			}
		}
		want = fleet.AgentSearch{Limit: 4}
		if _, err := c.Search(t.Context(), want); err == nil || !strings.Contains(err.Error(), "5 hits") {
			t.Errorf("more hits than asked for: %v", err)
		}
		hits = fleet.AgentHits{Held: make([]byte, 5<<20)}
		if _, err := c.Search(t.Context(), want); !errors.Is(err, fleet.ErrTooLarge) {
			t.Errorf("a huge answer: %v, want a refusal", err)
		}
	})
}

// Sessions come whole, however many and large they are; one that is too large
// comes without what its agent says.
func TestSessionsInParts(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var ids []string
		all := map[string]fleet.Session{}
		for i := range 800 {
			id := fmt.Sprintf("agent-%04d", i)
			ids = append(ids, id)
			if i%9 == 0 {
				continue // not held
			}
			size := 4000
			if i >= 410 && i < 426 {
				size = 300 << 10
			}
			all[id] = fleet.Session{
				Identity: fleet.Identity{AgentID: id, Hostname: "host"}, Epoch: uint64(i), Node: "b",
				Heartbeat: map[string]string{"text": strings.Repeat("x", size)},
			}
		}
		huge := all["agent-0700"]
		huge.Heartbeat = map[string]string{"text": strings.Repeat("\x01", 200<<10)} // six times as long in JSON
		all["agent-0700"] = huge
		calls := 0
		c := w.withAgents(&agents{sessions: func(ids []string) (out []fleet.Session, err error) {
			calls++
			for _, id := range ids {
				if s, ok := all[id]; ok {
					out = append(out, s)
				}
			}
			return out, nil
		}})
		got, err := c.Sessions(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		huge.Hostname, huge.Heartbeat = "", nil
		all["agent-0700"] = huge
		var want []fleet.Session
		for _, id := range ids {
			if s, ok := all[id]; ok {
				want = append(want, s)
			}
		}
		if !cmp.Equal(want, got) {
			t.Errorf("%d sessions came, want %d, or they differ", len(got), len(want))
		}
		if calls > 60 {
			t.Errorf("%d calls of the handler", calls)
		}
		if got, err := c.Sessions(t.Context(), nil); err != nil || len(got) != 0 {
			t.Errorf("of nobody: %v, %v", got, err)
		}
	})
}

func TestClaimAndReset(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var claims []fleet.Claim
		var ids []string
		for i := range 12_000 {
			ids = append(ids, fmt.Sprintf("agent-%05d", i))
			claims = append(claims, fleet.Claim{AgentID: ids[i], Epoch: 1<<60 + uint64(i)})
		}
		c := w.withAgents(&agents{
			claim: func(got []fleet.Claim) (refused []fleet.Claim, err error) {
				if len(got) > fleet.MaxAgentsPerCall {
					t.Errorf("%d in one call", len(got))
				}
				for _, c := range got {
					if c.Epoch%1000 == 0 {
						refused = append(refused, fleet.Claim{AgentID: c.AgentID, Epoch: c.Epoch + 1})
					}
				}
				return refused, nil
			},
			reset: func(ids []string) ([]string, error) { return ids[len(ids)-1:], nil },
		})
		var want []fleet.Claim
		for _, c := range claims {
			if c.Epoch%1000 == 0 {
				want = append(want, fleet.Claim{AgentID: c.AgentID, Epoch: c.Epoch + 1})
			}
		}
		refused, err := c.Claim(t.Context(), claims)
		if diff := cmp.Diff(want, refused); err != nil || diff != "" {
			t.Errorf("refused: %v (-want +got):\n%s", err, diff)
		}
		closed, err := c.Reset(t.Context(), ids)
		if diff := cmp.Diff([]string{"agent-04999", "agent-09999", "agent-11999"}, closed); err != nil || diff != "" {
			t.Errorf("closed: %v (-want +got):\n%s", err, diff)
		}
	})
}

// A node of a release that does not know the calls is not there for them.
func TestOlderNode(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		c := w.withAgents(nil)
		ids := []string{"a"}
		_, search := c.Search(t.Context(), fleet.AgentSearch{})
		_, sessions := c.Sessions(t.Context(), ids)
		_, claim := c.Claim(t.Context(), []fleet.Claim{{AgentID: "a"}})
		_, reset := c.Reset(t.Context(), ids)
		_, _, await := c.Await(t.Context(), "t1")
		for name, err := range map[string]error{"Search": search, "Sessions": sessions, "Claim": claim, "Reset": reset, "Await": await} {
			if !errors.Is(err, fleet.ErrUnavailable) {
				t.Errorf("%s: %v, want unavailable", name, err)
			}
		}
	})
}

// What the handler says is what the asking side gets, and too many agents in
// one call are refused before it is asked.
func TestErrorsAboutAgents(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		refusal := fleet.Refuse(fleet.CodeConflict, "no")
		c := w.withAgents(&agents{
			search:   func(fleet.AgentSearch) (fleet.AgentHits, error) { return fleet.AgentHits{}, refusal },
			sessions: func([]string) ([]fleet.Session, error) { return nil, refusal },
			claim:    func([]fleet.Claim) ([]fleet.Claim, error) { return nil, refusal },
			reset:    func([]string) ([]string, error) { return nil, fleet.ErrUnavailable },
		})
		_, search := c.Search(t.Context(), fleet.AgentSearch{})
		_, sessions := c.Sessions(t.Context(), []string{"a"})
		_, claim := c.Claim(t.Context(), []fleet.Claim{{AgentID: "a"}})
		for _, err := range []error{search, sessions, claim} {
			if !errors.Is(err, fleet.ErrConflict) {
				t.Errorf("%v, want the refusal", err)
			}
		}
		if _, err := c.Reset(t.Context(), []string{"a"}); !errors.Is(err, fleet.ErrUnavailable) {
			t.Errorf("%v, want unavailable", err)
		}
	})
}

func TestNodeStateTellsCertificateEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start("a", "10.0.0.1"), w.start("b", "10.0.0.2")
		for _, end := range []time.Time{{}, time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)} {
			b.handler.state = fleet.NodeState{Applied: 1, CertificateEnd: end}
			if got, err := a.port.Client(b.id).NodeState(t.Context()); err != nil || !got.CertificateEnd.Equal(end) {
				t.Errorf("%v, %v, want %v", got.CertificateEnd, err, end)
			}
		}
	})
}

// TestCallsNeverChange holds the bytes of each message of the calls about agents.
func TestCallsNeverChange(t *testing.T) {
	claims := []*peerrpcpb.AgentClaim{{AgentId: "a1", Epoch: 1<<40 + 1}, {AgentId: "a2"}}
	var lines []string
	for name, m := range map[string]proto.Message{
		"search":              &peerrpcpb.SearchRequest{Search: []byte("{}")},
		"search answer":       &peerrpcpb.SearchResponse{Hits: []byte("{}"), Held: []byte{1}, Matching: []byte{2}},
		"sessions":            &peerrpcpb.SessionsRequest{AgentIds: []string{"a1", "a2"}},
		"sessions answer":     &peerrpcpb.SessionsResponse{Sessions: [][]byte{[]byte("{}")}, Looked: 2},
		"claim":               &peerrpcpb.ClaimRequest{Claims: claims},
		"claim answer":        &peerrpcpb.ClaimResponse{Refused: claims[:1]},
		"reset":               &peerrpcpb.ResetRequest{AgentIds: []string{"a1"}},
		"reset answer":        &peerrpcpb.ResetResponse{Closed: []string{"a1"}},
		"await":               &peerrpcpb.AwaitRequest{TaskId: "t1", WithinMs: 3750},
		"await 1 registered":  &peerrpcpb.AwaitEvent{State: peerrpcpb.AwaitState_AWAIT_STATE_REGISTERED},
		"await 2 written":     &peerrpcpb.AwaitEvent{State: peerrpcpb.AwaitState_AWAIT_STATE_WRITTEN},
		"await 2 not written": &peerrpcpb.AwaitEvent{State: peerrpcpb.AwaitState_AWAIT_STATE_NOT_WRITTEN, Why: "late"},
		"node state": &peerrpcpb.NodeStateResponse{
			Applied: 1, Hash: "h", Term: 2, Leader: "b~0a1b2c3d", Ready: true, MarkIndex: 3, MarkHash: "m", Format: 4, CertificateEnd: 1_800_000_000, LogIndex: 5, LogTerm: 6,
		},
	} {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%s: %x\n", name, b))
	}
	slices.Sort(lines)
	golden(t, "calls.golden", strings.Join(lines, ""))
}
