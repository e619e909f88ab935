// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"muster/peerrpc"
)

func TestDecide(t *testing.T) {
	fresh := func(names string, expect int) (seen []peerrpc.Seen) {
		for name := range strings.FieldsSeq(names) {
			seen = append(seen, peerrpc.Seen{ServerID: serverID(name), Expect: expect})
		}
		return seen
	}
	member := func(name, cluster string) peerrpc.Seen {
		return peerrpc.Seen{ServerID: serverID(name), ClusterID: cluster, Expect: 3}
	}
	granted := func(names string) map[string]bool {
		m := map[string]bool{}
		for name := range strings.FieldsSeq(names) {
			m[serverID(name)] = true
		}
		return m
	}
	for name, tt := range map[string]struct {
		self    string
		expect  int
		others  []peerrpc.Seen
		given   string
		granted string
		want    peerrpc.Action
		servers string
		why     string
	}{
		"alone, expects one":        {self: "a", expect: 1, want: "ask", servers: "a", why: "lowest"},
		"alone, promised itself":    {self: "a", expect: 1, given: "a", want: "found", why: "1 of 1"},
		"too few":                   {self: "a", expect: 3, others: fresh("b", 3), want: "wait", why: "2 of 3 new nodes are seen: b~0a1b2c3d, a~0a1b2c3d"},
		"lowest":                    {self: "a", expect: 3, others: fresh("c b", 3), want: "ask", servers: "a b c"},
		"not lowest":                {self: "b", expect: 3, others: fresh("a c", 3), want: "wait", why: "a~0a1b2c3d founds"},
		"names count, not bytes":    {self: "a", expect: 2, others: fresh("a!", 2), want: "ask", servers: "a a!"},
		"promised itself":           {self: "a", expect: 3, others: fresh("b c", 3), given: "a", want: "ask", servers: "b c"},
		"one is missing":            {self: "a", expect: 3, others: fresh("b c", 3), given: "a", granted: "c", want: "ask", servers: "b", why: "2 of 3"},
		"all promised":              {self: "a", expect: 3, others: fresh("b c", 3), given: "a", granted: "b c", want: "found"},
		"enough promised":           {self: "a", expect: 3, others: fresh("b c d e", 3), given: "a", granted: "b e", want: "found"},
		"promised by who is gone":   {self: "a", expect: 3, others: fresh("b c", 3), given: "a", granted: "b d", want: "ask", servers: "c"},
		"goes on with a lower one":  {self: "b", expect: 3, others: fresh("a c d", 3), given: "b", granted: "c", want: "ask", servers: "a d"},
		"promised another":          {self: "a", expect: 3, others: fresh("b c", 3), given: "b", want: "wait", why: "has promised b"},
		"promised one who is gone":  {self: "a", expect: 3, others: fresh("b c", 3), given: "d", want: "wait", why: "does not see it"},
		"only joins":                {self: "a", expect: 0, others: fresh("b c", 3), want: "wait", why: "--join"},
		"one only joins":            {self: "a", expect: 2, others: append(fresh("b", 2), fresh("c", 0)...), want: "ask", servers: "a b"},
		"those who join do not add": {self: "a", expect: 3, others: append(fresh("b", 3), fresh("c", 0)...), want: "wait", why: "2 of 3"},
		"another expectation":       {self: "a", expect: 2, others: append(fresh("b", 2), fresh("c", 3)...), want: "wait", why: "c~0a1b2c3d has --bootstrap-expect 3"},
		"a cluster":                 {self: "a", expect: 3, others: append(fresh("b", 3), member("d", "c1"), member("c", "c1")), given: "a", granted: "b c", want: "join", servers: "c d"},
		"a cluster, only joins":     {self: "a", expect: 0, others: []peerrpc.Seen{member("d", "c1")}, want: "join", servers: "d"},
		"two clusters":              {self: "a", expect: 0, others: []peerrpc.Seen{member("d", "c1"), member("c", "c2")}, want: "wait", why: "c~0a1b2c3d is a member of c2, d~0a1b2c3d is a member of c1"},
	} {
		s := peerrpc.Situation{
			Self: peerrpc.Candidate{ServerID: serverID(tt.self), Expect: tt.expect}, Others: tt.others, Granted: granted(tt.granted),
		}
		if tt.given != "" {
			s.Given = serverID(tt.given)
		}
		var want []string
		for n := range strings.FieldsSeq(tt.servers) {
			want = append(want, serverID(n))
		}
		got := peerrpc.Decide(s)
		if diff := cmp.Diff(want, got.Servers); got.Action != tt.want || diff != "" || !strings.Contains(got.Why, tt.why) || got.Why == "" {
			t.Errorf("%s: %s %s %q, want %s %q\n%s", name, got.Action, got.Servers, got.Why, tt.want, tt.why, diff)
		}
	}
}

// site is a model of nodes that start empty: each does what Decide says, sees
// any part of the others for any time, hears late of clusters, loses questions
// and answers, and is killed between any two steps. Only what is on disk survives.
type site struct {
	t      *rapid.T
	rand   *rand.Rand
	nodes  []*modelNode
	founds []string
}

type modelNode struct {
	self     peerrpc.Candidate
	path     string
	promises *peerrpc.Promises
	granted  map[string]bool
	cluster  string // on disk
	sees     uint32 // which of the site's nodes, a bit each
}

func (s *site) boot(n *modelNode) {
	p, err := peerrpc.OpenPromises(peerrpc.PromisesOptions{Path: n.path, Self: n.self, ClusterID: func() string { return n.cluster }})
	if err != nil {
		s.t.Fatal(err)
	}
	n.promises, n.granted = p, map[string]bool{}
}

// step lets a node see some of the others and do a part of what follows.
func (s *site) step() {
	n := s.nodes[s.rand.IntN(len(s.nodes))]
	if n.cluster != "" {
		return
	}
	switch s.rand.IntN(16) {
	case 0:
		s.boot(n)
		return
	case 1, 2: // the network changes
		n.sees = s.rand.Uint32()
	}
	var others []peerrpc.Seen
	for i, o := range s.nodes {
		if o == n || n.sees>>i&1 == 0 {
			continue
		}
		seen := peerrpc.Seen{ServerID: o.self.ServerID, Expect: o.self.Expect, ClusterID: o.cluster}
		if s.rand.IntN(8) != 0 {
			seen.ClusterID = ""
		}
		others = append(others, seen)
	}
	d := peerrpc.Decide(peerrpc.Situation{Self: n.self, Others: others, Given: n.promises.Given(), Granted: n.granted})
	switch d.Action {
	case peerrpc.ActionFound:
		s.founds = append(s.founds, n.self.ServerID)
		n.cluster = "of " + n.self.ServerID
	case peerrpc.ActionJoin:
		o := s.byID(d.Servers[0])
		n.cluster = o.cluster
	case peerrpc.ActionAsk:
		for _, id := range d.Servers {
			if id != n.self.ServerID && n.promises.Given() != n.self.ServerID {
				break // never asks others before itself
			}
			fate := s.rand.IntN(10)
			if fate > 6 {
				break // killed, or cut off
			}
			if s.byID(id).promises.Promise(s.t.Context(), n.self) == nil && fate != 1 && id != n.self.ServerID { // 1: the answer is lost
				n.granted[id] = true
			}
		}
	case peerrpc.ActionWait:
	}
}

func (s *site) byID(id string) *modelNode {
	return s.nodes[slices.IndexFunc(s.nodes, func(n *modelNode) bool { return n.self.ServerID == id })]
}

func newSite(t *rapid.T, dir string, seed uint64, expect, count int) *site {
	s := &site{t: t, rand: rand.New(rand.NewPCG(seed, 0))}
	for i := range count {
		id := serverID(fmt.Sprintf("n%d", i))
		n := &modelNode{
			self: peerrpc.Candidate{ServerID: id, Expect: expect}, path: filepath.Join(dir, id), sees: s.rand.Uint32(),
		}
		s.boot(n)
		s.nodes = append(s.nodes, n)
	}
	return s
}

// As long as fewer than twice the expected nodes start empty, there is never a
// second cluster, whatever is seen, lost or killed.
func TestNeverTwoClusters(t *testing.T) {
	base, run, founded := t.TempDir(), 0, 0
	rapid.Check(t, func(t *rapid.T) {
		expect := rapid.IntRange(1, 4).Draw(t, "expect")
		count := rapid.IntRange(expect, 2*expect-1).Draw(t, "count")
		run++
		dir := mkdir(t, filepath.Join(base, fmt.Sprint(run)))
		s := newSite(t, dir, rapid.Uint64().Draw(t, "seed"), expect, count)
		for range 40 * expect {
			s.step()
		}
		if len(s.founds) > 1 {
			t.Fatalf("of %d nodes that expect %d, %v founded a cluster each", count, expect, s.founds)
		}
		founded += len(s.founds)
	})
	if founded < run/10 {
		t.Errorf("%d clusters in %d runs: the model does not get anywhere", founded, run)
	}
}

func mkdir(t *rapid.T, dir string) string {
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Nodes that see each other in the end always make a cluster, when nothing is
// lost: the lowest one founds it, and the others join.
func TestOneClusterWhenAllIsWell(t *testing.T) {
	base := t.TempDir()
	for expect := 1; expect <= 5; expect++ {
		s := &site{}
		for i := range 2*expect - 1 {
			id := serverID(fmt.Sprintf("n%d", i))
			n := &modelNode{self: peerrpc.Candidate{ServerID: id, Expect: expect}, path: filepath.Join(base, fmt.Sprint(expect, id)), granted: map[string]bool{}}
			p, err := peerrpc.OpenPromises(peerrpc.PromisesOptions{Path: n.path, Self: n.self, ClusterID: func() string { return n.cluster }})
			if err != nil {
				t.Fatal(err)
			}
			n.promises = p
			s.nodes = append(s.nodes, n)
		}
		for range 3 {
			for _, n := range s.nodes {
				s.turn(t, n)
			}
		}
		for _, n := range s.nodes {
			if want := "of " + serverID("n0"); n.cluster != want {
				t.Errorf("expect %d: %s is in cluster %q", expect, n.self.ServerID, n.cluster)
			}
		}
	}
}

// turn does all that Decide says, with nothing lost.
func (s *site) turn(t *testing.T, n *modelNode) {
	if n.cluster != "" {
		return
	}
	var others []peerrpc.Seen
	for _, o := range s.nodes {
		if o != n {
			others = append(others, peerrpc.Seen{ServerID: o.self.ServerID, Expect: o.self.Expect, ClusterID: o.cluster})
		}
	}
	d := peerrpc.Decide(peerrpc.Situation{Self: n.self, Others: others, Given: n.promises.Given(), Granted: n.granted})
	switch d.Action {
	case peerrpc.ActionFound:
		n.cluster = "of " + n.self.ServerID
	case peerrpc.ActionJoin:
		n.cluster = s.byID(d.Servers[0]).cluster
	case peerrpc.ActionAsk:
		for _, id := range d.Servers {
			if err := s.byID(id).promises.Promise(t.Context(), n.self); err != nil {
				t.Fatal(err)
			}
			n.granted[id] = id != n.self.ServerID
		}
	case peerrpc.ActionWait:
	}
}
