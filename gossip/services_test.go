// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/fleet"
	"muster/gossip"
	"muster/internal/memnet"
)

func service(name string, i int) fleet.Service {
	return fleet.Service{Name: name, IP: fmt.Sprintf("192.0.2.%d", i%250), Port: 1000 + i, Weight: i, Extra: map[string]any{"k": "v"}}
}

// lines collects what is logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), s)
}

func TestAnotherSecretDoesNotJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		log, other := &lines{}, &lines{}
		one := startNode(t, n, 1, func(o *gossip.Options) { o.Logger = slog.New(slog.NewTextHandler(other, nil)) })
		two := startNode(t, n, 2, func(o *gossip.Options) {
			o.Key = bytes.Repeat([]byte{8}, 32)
			o.Logger = slog.New(slog.NewTextHandler(log, nil))
		})
		time.Sleep(3 * time.Minute)
		if len(one.Members()) != 1 || len(two.Members()) != 1 {
			t.Fatalf("%d and %d members", len(one.Members()), len(two.Members()))
		}
		if got := log.count("the same cluster secret"); got < 3 || got > 4 {
			t.Errorf("the hint was logged %d times in 3 minutes", got)
		}
		if got := other.count("with another cluster secret is ignored"); got < 3 || got > 4 {
			t.Errorf("the other side logged it %d times in 3 minutes", got)
		}
	})
}

func TestAnotherClusterDoesNotJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		log := &lines{}
		one := startNode(t, n, 1, func(o *gossip.Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) })
		two := startNode(t, n, 2, func(o *gossip.Options) { o.Self.ClusterID = "other" })
		three := startNode(t, n, 3, func(o *gossip.Options) { o.Self.ClusterID = "" }) // of no cluster yet
		time.Sleep(time.Minute)
		if _, ok := one.member("n2"); ok || log.count("another cluster") == 0 {
			t.Error("n2 of another cluster was taken for a member")
		}
		if _, ok := two.member("n1"); ok {
			t.Error("n1 of another cluster was taken for a member")
		}
		if _, ok := one.member("n3"); !ok {
			t.Error("n3, of no cluster yet, is not seen")
		}
		_ = three
	})
}

func TestTwoNodesWithOneNameAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		log := &lines{}
		one := startNode(t, n, 1, func(o *gossip.Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) })
		startNode(t, n, 2)
		time.Sleep(5 * time.Second)
		three := startNode(t, n, 3, func(o *gossip.Options) { o.Self.NodeID = "n2" })
		<-three.Tried()
		select {
		case rival := <-three.Rivals():
			if rival.AgentAddr != ip(2)+":6751" {
				t.Errorf("the rival is at %s", rival.AgentAddr)
			}
		default:
			t.Error("the later node does not know of its rival")
		}
		time.Sleep(10 * time.Second)
		three.Yield()
		<-time.After(10 * time.Second)
		if two, _ := one.member("n2"); !two.Alive || two.Load.Sessions != 200 {
			t.Errorf("beside its rival: %+v", two)
		}
		three.stop()
		<-time.After(time.Second)
		if two, ok := one.member("n2"); !ok || !two.Alive || !two.Load.Ready || two.AgentAddr != ip(2)+":6751" {
			t.Errorf("after the rival is gone: %+v", two)
		}
		if log.count("have the same name") != 1 {
			t.Errorf("logged %d times", log.count("have the same name"))
		}
	})
}

func has(node *testNode, name string, count int) func() bool {
	return func() bool { return len(node.Services(name)) == count }
}

func TestServicesSpreadAndAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := startThree(t, memnet.New())
		registered, err := nodes[0].Register(service("svc", 1))
		if err != nil || registered.CreateAt != time.Now().Unix() {
			t.Fatalf("Register = %+v, %v", registered, err)
		}
		created := registered.CreateAt
		await(t, 3*time.Second, "n3 knows it", has(nodes[2], "svc", 1))
		time.Sleep(30 * time.Second)
		if _, err := nodes[1].Register(service("svc", 1)); err != nil { // through another node
			t.Fatal(err)
		}
		time.Sleep(50 * time.Second)
		for _, node := range nodes {
			got := node.Services("svc")
			if len(got) != 1 || got[0].Status != fleet.ServiceBlue || got[0].CreateAt != created ||
				time.Now().Unix()-got[0].UpdateAt > 52 || got[0].Extra["k"] != "v" {
				t.Errorf("%s: %+v", node.id, got)
			}
		}
		time.Sleep(56 * time.Second) // older than 105 s
		for _, node := range nodes {
			if got := node.Services(""); len(got) != 0 {
				t.Errorf("%s still has %+v", node.id, got)
			}
		}
	})
}

func TestEvictionsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := startThree(t, memnet.New())
		s := service("svc", 1)
		if _, err := nodes[0].Register(s); err != nil {
			t.Fatal(err)
		}
		await(t, 3*time.Second, "n2 knows it", has(nodes[1], "svc", 1))
		if !nodes[1].Evict(s.Key()) || nodes[1].Evict(s.Key()) {
			t.Error("Evict does not tell whether it was known")
		}
		await(t, 3*time.Second, "n1 forgets it", has(nodes[0], "svc", 0))
		time.Sleep(time.Minute) // full comparisons do not bring it back
		if len(nodes[2].Services("svc")) != 0 {
			t.Error("n3 has it again")
		}
		if _, err := nodes[2].Register(s); err != nil {
			t.Fatal(err)
		}
		await(t, 3*time.Second, "n1 knows it anew", has(nodes[0], "svc", 1))
	})
}

func TestANewcomerLearnsTheWholeRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		one := startNode(t, n, 1)
		for i := range 1000 {
			if _, err := one.Register(service("svc", i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(20 * time.Second)
		two := startNode(t, n, 2)
		await(t, 10*time.Second, "n2 knows all", has(two, "svc", 1000))
		if got := two.Services("svc")[0]; time.Now().Unix()-got.UpdateAt < 20 {
			t.Errorf("its age was lost on the way: %+v", got)
		}
	})
}

func TestBothSidesOfAPartitionAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		nodes := startThree(t, n)
		n.Cut(ip(1))
		for i, node := range nodes[:2] {
			if _, err := node.Register(service(node.id, i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(20 * time.Second)
		if len(nodes[0].Services("")) != 1 || len(nodes[2].Services("")) != 1 {
			t.Fatalf("while cut: %v and %v", nodes[0].Services(""), nodes[2].Services(""))
		}
		n.Heal()
		for _, node := range nodes {
			await(t, 70*time.Second, node.id+" knows both", has(node, "", 2))
		}
	})
}

func TestTheWANProfile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		wan := func(o *gossip.Options) { o.Profile = gossip.ProfileWAN }
		one, two := startNode(t, n, 1, wan), startNode(t, n, 2, wan)
		await(t, 15*time.Second, "both see both", func() bool { return len(one.Pick(0)) == 2 && len(two.Pick(0)) == 2 })
		start := time.Now()
		one.stop()
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("leaving took %v", took)
		}
		await(t, 3*time.Second, "n1 is gone", func() bool { return len(two.Members()) == 1 })
		time.Sleep(time.Minute) // memberlist's WAN probes last longer than Linger
	})
}

func TestTheRegistryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := startNode(t, memnet.New(), 1, func(o *gossip.Options) { o.Join = nil })
		for i := range 10_000 {
			if _, err := node.Register(service("svc", i)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := node.Register(service("more", 1)); !errors.Is(err, fleet.ErrTooLarge) {
			t.Errorf("one too many: %v", err)
		}
		if _, err := node.Register(service("svc", 1)); err != nil {
			t.Errorf("a renewal: %v", err)
		}
		if _, err := node.Register(fleet.Service{Name: "a b", IP: "1", Port: 1}); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("a bad name: %v", err)
		}
		time.Sleep(106 * time.Second)
		if _, err := node.Register(service("more", 1)); err != nil {
			t.Errorf("after the others are gone: %v", err)
		}
	})
}

// renew registers a service each 30 s for so long, through a node that pick
// names, and wants it green on each of the nodes all the time.
func renew(t *testing.T, s fleet.Service, lasts time.Duration, pick func(i int) *testNode, on ...*testNode) {
	t.Helper()
	for i := range int(lasts / (30 * time.Second)) {
		if _, err := pick(i).Register(s); err != nil {
			t.Fatal(err)
		}
		for range 15 {
			time.Sleep(2 * time.Second)
			for _, node := range on {
				if got := node.Services(s.Name); len(got) != 1 || got[0].Status != fleet.ServiceGreen {
					t.Errorf("%s lists %+v in round %d", node.id, got, i)
				}
			}
		}
	}
}

// Each side of a cluster that is cut in two knows what it hears, after ten
// minutes too, and both know all when it is whole.
func TestTenMinutesCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		nodes := startThree(t, n)
		here, there, silent := service("here", 1), service("there", 2), service("silent", 3)
		for _, s := range []fleet.Service{here, there, silent} {
			if _, err := nodes[1].Register(s); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
		n.Cut(ip(1))
		var sides sync.WaitGroup
		sides.Go(func() { renew(t, here, 10*time.Minute, func(int) *testNode { return nodes[0] }, nodes[0]) })
		sides.Go(func() {
			renew(t, there, 10*time.Minute, func(i int) *testNode { return nodes[1+i%2] }, nodes[1], nodes[2])
		})
		sides.Wait()
		if got := nodes[0].Services(""); len(got) != 1 {
			t.Errorf("n1, cut off, lists %+v", got)
		}
		for _, s := range []fleet.Service{here, there} { // the silent one was forgotten everywhere
			if _, err := nodes[0].Register(s); err != nil {
				t.Fatal(err)
			}
		}
		n.Heal()
		for _, node := range nodes {
			await(t, 40*time.Second, node.id+" knows both", has(node, "", 2))
		}
		renew(t, here, 2*time.Minute, func(i int) *testNode { return nodes[i%3] }, nodes...)
	})
}

// A service that renews through any node stays green while each node in turn is
// restarted, with nothing of its memory.
func TestServicesSurviveTheRestartOfEachNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		nodes := startThree(t, n)
		s := service("svc", 1)
		registered, err := nodes[0].Register(s)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		for i := range nodes {
			nodes[i].stop()
			others := []*testNode{nodes[(i+1)%3], nodes[(i+2)%3]}
			renew(t, s, time.Minute, func(round int) *testNode { return others[round%2] }, others...)
			nodes[i] = startNode(t, n, i+1)
			<-nodes[i].Tried()
			if got := nodes[i].Services("svc"); len(got) != 1 || got[0].CreateAt != registered.CreateAt {
				t.Errorf("n%d, just started, lists %+v", i+1, got)
			}
			time.Sleep(time.Second) // the next one is stopped 31 s after the last renewal
		}
	})
}

// An eviction through a node that has not heard of the service yet holds.
func TestAnEvictionOfWhatIsNotKnownYetHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		nodes := startThree(t, n)
		n.Cut(ip(2))
		s := service("svc", 1)
		if _, err := nodes[0].Register(s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if nodes[1].Evict(s.Key()) {
			t.Fatal("n2 knows a service that it cannot have heard of")
		}
		n.Heal()
		await(t, 70*time.Second, "n1 forgets it", has(nodes[0], "svc", 0))
		await(t, 70*time.Second, "n3 forgets it", has(nodes[2], "svc", 0))
		if nodes[0].Evict(fleet.ServiceKey{Name: "a b", IP: "1", Port: 1}) {
			t.Error("a name that no service can have was known")
		}
	})
}
