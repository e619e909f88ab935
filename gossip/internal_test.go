// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"muster/fleet"
)

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testRegistry() *registry {
	return newRegistry("self", func() time.Time { return testNow })
}

// anyRegistration draws from few services and stamps, so that they collide.
func anyRegistration() *rapid.Generator[registration] {
	return rapid.Custom(func(t *rapid.T) registration {
		stamp := int64(rapid.IntRange(1, 5).Draw(t, "stamp"))
		evicted := rapid.Bool().Draw(t, "evicted")
		r := registration{
			Name: "svc", IP: "192.0.2.1", Port: rapid.IntRange(1, 3).Draw(t, "port"),
			Stamp: stamp, Evicted: evicted, AgeMS: 1000 * rapid.Int64Range(0, 120).Draw(t, "age"),
			Origin: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "origin"),
		}
		if !evicted {
			r.Weight = 10*int(stamp) + int(r.Origin[0]) // one stamp and origin, one content
		}
		return r
	})
}

// content is what is alive in r, without ages.
func content(r *registry) map[fleet.ServiceKey]registration {
	all := map[fleet.ServiceKey]registration{}
	for key, e := range r.entries {
		m := e.message(testNow)
		m.AgeMS = 0
		all[key] = m
	}
	return all
}

// compare is a full comparison of two nodes.
func compare(t rapid.TB, one, two *registry) (news int) {
	t.Helper()
	states := [2][]registration{}
	for i, r := range []*registry{one, two} {
		state, err := r.state(testNow)
		if err != nil {
			t.Fatal(err)
		}
		if states[i], err = decodeState(state); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range []*registry{two, one} {
		for _, m := range states[i] {
			if _, took, _ := r.merge(m, testNow); took {
				news++
			}
		}
	}
	return news
}

// However messages are ordered, repeated or passed on in full, all nodes end up
// with the same registry, and about the same ages.
func TestMergeOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		messages := rapid.SliceOfN(anyRegistration(), 0, 12).Draw(t, "messages")
		one, two, three := testRegistry(), testRegistry(), testRegistry()
		for _, m := range messages {
			one.merge(m, testNow)
		}
		for _, m := range rapid.Permutation(append(messages, messages...)).Draw(t, "order") {
			two.merge(m, testNow)
		}
		compare(t, one, two)
		compare(t, two, three)
		for _, other := range []*registry{two, three} {
			if diff := cmp.Diff(content(one), content(other)); diff != "" {
				t.Fatal(diff)
			}
			for key, e := range one.entries {
				if apart := e.refreshed.Sub(other.entries[key].refreshed).Abs(); !e.evicted && apart > sameAge {
					t.Fatalf("the ages of %v are %v apart", key, apart)
				}
			}
		}
		if news := compare(t, one, two) + compare(t, two, three) + compare(t, one, three); news > 0 {
			t.Fatalf("a second comparison brings %d news", news)
		}
	})
}

func TestMergeRefuses(t *testing.T) {
	good := registration{Name: "svc", IP: "192.0.2.1", Port: 1, Stamp: testNow.UnixMicro()}
	for name, tt := range map[string]struct {
		change func(*registration)
		want   string
	}{
		"good":           {func(*registration) {}, ""},
		"no name":        {func(r *registration) { r.Name = "" }, reasonMalformed},
		"a clock ahead":  {func(r *registration) { r.Stamp += (1000 * 24 * time.Hour).Microseconds() }, ""},
		"no clock":       {func(r *registration) { r.Stamp = 1 << 57 }, reasonMalformed},
		"long origin":    {func(r *registration) { r.Origin = strings.Repeat("x", 256) }, reasonMalformed},
		"negative stamp": {func(r *registration) { r.Stamp = -1 }, reasonMalformed},
		"negative age":   {func(r *registration) { r.AgeMS = -1 }, reasonMalformed},
		"huge age":       {func(r *registration) { r.AgeMS = 1 << 62 }, reasonMalformed},
	} {
		r := testRegistry()
		m := good
		tt.change(&m)
		_, news, ignored := r.merge(m, testNow)
		if ignored != tt.want || news != (tt.want == "") || r.len() != map[bool]int{true: 1}[news] {
			t.Errorf("%s: news %v, ignored %q, %d entries", name, news, ignored, r.len())
		}
	}
	old := good
	old.AgeMS = 106_000
	if _, news, ignored := testRegistry().merge(old, testNow); news || ignored != "" {
		t.Errorf("too old: %v, %q", news, ignored)
	}
}

func TestMergeIsBounded(t *testing.T) {
	r := testRegistry()
	for i := range maxServices + 1 {
		m := registration{Name: fmt.Sprint("s", i), IP: "192.0.2.1", Port: 1, Stamp: 1}
		_, news, ignored := r.merge(m, testNow)
		if full := i == maxServices; news == full || (ignored == reasonRegistryFull) != full {
			t.Fatalf("entry %d: %v, %q", i, news, ignored)
		}
	}
}

// A registration made after another node's eviction was seen holds, even when
// this node's clock is behind.
func TestOwnStampsAreAboveAllSeen(t *testing.T) {
	r := testRegistry()
	s := fleet.Service{Name: "svc", IP: "192.0.2.1", Port: 1}
	ahead := testNow.Add(time.Hour).UnixMicro()
	r.merge(registration{Name: "svc", IP: "192.0.2.1", Port: 1, Stamp: ahead, Evicted: true}, testNow)
	if len(r.list("", testNow)) != 0 {
		t.Fatal("an eviction is listed")
	}
	_, m, err := r.register(s, testNow)
	if err != nil || m.Stamp <= ahead || len(r.list("svc", testNow)) != 1 {
		t.Fatalf("stamp %d, seen %d, %v", m.Stamp, ahead, err)
	}
}

func TestLargestRegistrationFitsAPacket(t *testing.T) {
	long := make([]byte, fleet.MaxServiceNameBytes)
	for i := range long {
		long[i] = 'a'
	}
	extra := make([]byte, fleet.MaxServiceExtraBytes-len(`{"a":""}`))
	for i := range extra {
		extra[i] = 'x'
	}
	s := fleet.Service{Name: string(long), IP: string(long), Port: 65535, Weight: 1 << 40, Extra: map[string]any{"a": string(extra)}}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	_, m, err := testRegistry().register(s, testNow)
	if err != nil {
		t.Fatal(err)
	}
	b, err := encodeRegistration(m)
	if err != nil || len(b) > 1000 {
		t.Fatalf("%d bytes, %v; memberlist sends at most about 1,300 in a packet", len(b), err)
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(encodeLoad("n1", fleet.Load{Sessions: 1, Sequence: 2}))
	registered, err := encodeRegistration(registration{Name: "svc", IP: "192.0.2.1", Port: 1, Stamp: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(registered)
	f.Add(append([]byte{kindLeaving}, "n1"...))
	f.Add([]byte{})
	f.Add(append([]byte{kindLoad, 255}, make([]byte, 255+fleet.LoadBytes)...)) // a name of 255 bytes
	f.Add(encodeQuestion(question{asker: "n1", nodes: []wanted{{"self", 1}, {"n2", 1 << 40}}}))
	f.Add(appendReport(appendReport([]byte{kindReports}, known{node: "n1", age: time.Second}), known{node: "self"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &Mesh{
			metrics:  newMetrics(nil),
			view:     newView(fleet.Member{NodeID: "self"}, ProfileLAN),
			registry: testRegistry(),

			questions: make(chan question, 1),
		}
		g.opts.Self.NodeID = "self"
		delegate{g}.NotifyMsg(b)
		delegate{g}.MergeRemoteState(b, false)
		if got := len(g.Members()); got != 1 {
			t.Fatalf("a message made a member: %d", got)
		}
		for _, s := range g.Services("") {
			if err := s.Check(); err != nil {
				t.Fatalf("a bad service was noted: %v", err)
			}
		}
	})
}

func TestLoadMessages(t *testing.T) {
	want := fleet.Load{Sessions: 1, Limit: 2, Ready: true, Sequence: 9}
	b := encodeLoad("node-1", want)
	node, got, err := decodeLoad(b[1:])
	if err != nil || node != "node-1" || got != want {
		t.Fatalf("%q, %+v, %v", node, got, err)
	}
	for i := range len(b) - 1 - 4 { // the report of an older release is 4 bytes shorter
		if _, _, err := decodeLoad(b[1 : 1+i]); !errors.Is(err, fleet.ErrInvalid) {
			t.Fatalf("cut after %d bytes: %v", i, err)
		}
	}
}

func TestOnlyNewerReportsCount(t *testing.T) {
	v := newView(fleet.Member{NodeID: "self"}, ProfileLAN)
	if got := v.setLoad("other", fleet.Load{Sequence: 1}, testNow); got != reasonUnknownNode {
		t.Errorf("unknown node: %q", got)
	}
	other := fleet.Member{NodeID: "other", Started: testNow}
	first, _ := v.setAlive(other, v.nodes["self"].addr)
	again, _ := v.setAlive(other, v.nodes["self"].addr)
	if !first || again {
		t.Error("setAlive does not tell whether the node is new")
	}
	for _, tt := range []struct {
		sequence uint64
		want     string
	}{{5, ""}, {5, reasonStale}, {4, reasonStale}, {6, ""}} {
		if got := v.setLoad("other", fleet.Load{Sequence: tt.sequence}, testNow); got != tt.want {
			t.Errorf("sequence %d: %q, want %q", tt.sequence, got, tt.want)
		}
	}
	other.Started = testNow.Add(time.Second) // restarted, with its clock set back
	v.setAlive(other, v.nodes["self"].addr)
	if got := v.setLoad("other", fleet.Load{Sequence: 1}, testNow); got != "" {
		t.Errorf("after a restart: %q", got)
	}
}

func TestDeadNodesAreForgottenInTheEnd(t *testing.T) {
	v := newView(fleet.Member{NodeID: "self"}, ProfileLAN)
	v.setAlive(fleet.Member{NodeID: "other"}, v.nodes["self"].addr)
	v.setGone("other", testNow)
	v.setGone("self", testNow)
	v.sweep(testNow.Add(time.Hour))
	if got := len(v.members()); got != 2 {
		t.Errorf("after an hour: %d nodes", got)
	}
	v.sweep(testNow.Add(time.Hour + 1))
	if got := v.members(); len(got) != 1 || !got[0].Alive {
		t.Errorf("later: %+v", got)
	}
}

// TestServicesByName: the list of a name is what the list of all holds of it,
// whatever came, went and was swept away before.
func TestServicesByName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, now := testRegistry(), testNow
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			s := fleet.Service{Name: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name"), IP: "192.0.2.1", Port: rapid.IntRange(1, 2).Draw(t, "port")}
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				if _, _, err := r.register(s, now); err != nil {
					t.Fatal(err)
				}
			case 2:
				r.evict(s.Key(), now)
			case 3:
				now = now.Add(rapid.SampledFrom([]time.Duration{time.Second, fleet.ServiceEvictAge, remembered}).Draw(t, "later"))
				r.sweep(now)
			}
			kept := map[string]int{}
			for key := range r.entries {
				kept[key.Name]++
			}
			if diff := cmp.Diff(kept, r.names); diff != "" {
				t.Fatalf("names are counted wrong: %s", diff)
			}
			for _, name := range []string{"a", "b"} {
				want := slices.DeleteFunc(r.list("", now), func(s fleet.Service) bool { return s.Name != name })
				if diff := cmp.Diff(want, r.list(name, now)); diff != "" {
					t.Fatal(diff)
				}
			}
		}
	})
}

// TestPicksAreCounted: whoever asks at once, each is counted; a report of a second
// later holds half of them.
func TestPicksAreCounted(t *testing.T) {
	v := newView(fleet.Member{NodeID: "self"}, ProfileLAN)
	for _, id := range []string{"n1", "n2"} {
		v.setAlive(fleet.Member{NodeID: id}, v.nodes["self"].addr)
		v.setLoad(id, fleet.Load{Ready: true, Limit: 1 << 20, Sequence: 1}, testNow)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 500 {
				v.pick(10, testNow)
			}
		})
	}
	group.Wait()
	v.setAlive(fleet.Member{NodeID: "n1", Zone: "moved"}, v.nodes["self"].addr) // new facts are no report
	n1, n2 := v.nodes["n1"].handed.Outstanding(), v.nodes["n2"].handed.Outstanding()
	if n1+n2 != 4000 || min(n1, n2) == 0 || v.handedOut() != 4000 {
		t.Errorf("of 4000 agents %v and %v were counted, %d in all", n1, n2, v.handedOut())
	}
	v.setLoad("n1", fleet.Load{Ready: true, Limit: 1 << 20, Sequence: 2}, testNow.Add(time.Second))
	if got := v.nodes["n1"].handed.Outstanding(); got != n1/2 {
		t.Errorf("%v of %v are counted after the report", got, n1)
	}
}

func TestTheListIsBounded(t *testing.T) {
	v := newView(fleet.Member{NodeID: "self"}, ProfileLAN)
	for i := range maxMembers + 10 {
		_, ignored := v.setAlive(fleet.Member{NodeID: fmt.Sprint("n", i)}, v.nodes["self"].addr)
		if full := i >= maxMembers-1; full != (ignored == reasonTooManyNodes) {
			t.Fatalf("node %d: ignored %q", i, ignored)
		}
	}
	if got := len(v.members()); got != maxMembers {
		t.Errorf("%d members", got)
	}
}

func BenchmarkPick(b *testing.B) {
	for _, nodes := range []int{5, 50, 200} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			v := newView(fleet.Member{NodeID: "self"}, ProfileLAN)
			for i := range nodes {
				id := fmt.Sprint("n", i)
				v.setAlive(fleet.Member{NodeID: id}, v.nodes["self"].addr)
				v.setLoad(id, fleet.Load{Ready: true, Limit: 20000, Sequence: 1, Sessions: uint32(i * 37 % nodes)}, testNow)
			}
			b.ReportAllocs()
			for b.Loop() {
				v.pick(10, testNow)
			}
		})
	}
}

func BenchmarkSetLoad(b *testing.B) {
	v := newView(fleet.Member{NodeID: "self"}, ProfileLAN)
	for i := range 50 {
		v.setAlive(fleet.Member{NodeID: fmt.Sprint("n", i)}, v.nodes["self"].addr)
	}
	for i := uint64(1); b.Loop(); i++ {
		v.setLoad("n7", fleet.Load{Sequence: i}, testNow)
	}
}
