// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"muster/internal/apiv1"
	"muster/test/bubble"
)

// registers are the default config and the tags of agents, and what clients of
// all nodes did to them over HTTP.
type registers struct {
	token string
	began time.Time

	mu     sync.Mutex
	ops    map[string][]porcupine.Operation
	values int
}

const (
	taggedAgents = 4
	tagValues    = 12
)

// Clients of all nodes write and read the config and tags while nodes die, are
// parted and come back: there is an order of all calls that explains all answers.
func TestBubbleRegisters(t *testing.T) {
	for _, nodes := range []int{3, 5} {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("nodes=%d/seed=%d", nodes, seed), func(t *testing.T) {
			bubble.RunCluster(t, nodes, func(t *testing.T, c *bubble.Cluster) {
				c.Form(20 * time.Second)
				c.Pass(5 * time.Second)
				for i := range taggedAgents {
					a := c.Nodes[0].Open(fmt.Sprintf("a%d", i))
					a.Beat()
					a.Leave()
				}
				c.Pass(2 * time.Second) // they are in the inventory
				c.SameState(10 * time.Second)
				r := &registers{token: c.Nodes[0].Token(), began: time.Now(), ops: make(map[string][]porcupine.Operation)}
				done := make(chan struct{})
				var clients sync.WaitGroup
				stop := sync.OnceFunc(func() {
					close(done)
					clients.Wait()
				})
				t.Cleanup(stop)
				for i := range 2 * nodes {
					clients.Go(func() { r.client(i, c.Nodes[i%nodes], done) })
				}
				random := rand.New(rand.NewPCG(seed, 1))
				for range 16 {
					hurt(c, random)
					c.Pass(time.Duration(500+random.IntN(4000)) * time.Millisecond)
				}
				c.Heal()
				for _, n := range c.Nodes {
					if n.Node == nil {
						n.Launch()
					}
				}
				for _, n := range c.Nodes {
					n.WaitReady(time.Minute)
				}
				stop()
				c.SameState(time.Minute)
				r.check(t)
			})
		})
	}
}

// hurt does something to a node or a link, or undoes it. A majority goes on
// running.
func hurt(c *bubble.Cluster, random *rand.Rand) {
	n, other := c.Nodes[random.IntN(len(c.Nodes))], c.Nodes[random.IntN(len(c.Nodes))]
	for _, x := range c.Nodes {
		if x.Node != nil && x.Leads() && random.IntN(2) == 0 {
			n = x
		}
	}
	if n.Node == nil {
		n.Launch()
		return
	}
	spare := 2*(len(c.Running())-1) > len(c.Nodes)
	way := random.IntN(8)
	if way < 3 && spare {
		c.Heal() // a link that works one way only would not tell of the end as TCP does
	}
	switch {
	case way == 0 && spare:
		n.Kill()
	case way == 1 && spare:
		n.Vanish()
	case way == 2 && spare:
		n.Stop()
	case way == 3:
		c.Isolate(n)
	case way == 4:
		c.Deafen(n)
	case way == 5 && n != other:
		c.Net.Block(n.IP, other.IP)
	default:
		c.Heal()
	}
}

// client works through one node, linearizably, one call after the other.
func (r *registers) client(number int, n *bubble.Node, done chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(rand.IntN(800)) * time.Millisecond):
		}
		agent := fmt.Sprintf("a%d", rand.IntN(taggedAgents))
		switch rand.IntN(4) {
		case 0:
			version := fmt.Sprintf("v%d", r.next())
			body, err := json.Marshal(apiv1.DefaultConfig{Type: "agent", Version: version, Config: []apiv1.ConfigItem{{Name: "collector", Version: version}}})
			if err != nil {
				panic(err) // strings only
			}
			r.call(number, n, configKey, access{write: true, value: version}, bubble.Request{Method: "PUT", Path: "/v1/config/default", Body: string(body)}, nil)
		case 1:
			var conf apiv1.DefaultConfig
			r.call(number, n, configKey, access{}, bubble.Request{Method: "GET", Path: "/v1/config/default"}, func(body []byte) (string, error) {
				err := json.Unmarshal(body, &conf)
				return conf.Version, err
			})
		case 2:
			value := fmt.Sprintf("t%d", rand.IntN(tagValues))
			change := apiv1.TagChange{Add: []string{value}}
			for i := range tagValues {
				if v := fmt.Sprintf("t%d", i); v != value {
					change.Remove = append(change.Remove, v)
				}
			}
			body, err := json.Marshal(change)
			if err != nil {
				panic(err) // strings only
			}
			r.call(number, n, agent, access{write: true, value: value}, bubble.Request{Method: "POST", Path: "/v1/agents/" + agent + "/tags", Body: string(body)}, nil)
		case 3:
			var have apiv1.Agent
			r.call(number, n, agent, access{}, bubble.Request{Method: "GET", Path: "/v1/agents/" + agent}, func(body []byte) (string, error) {
				err := json.Unmarshal(body, &have)
				return strings.Join(have.Tags, ","), err
			})
		}
	}
}

// next numbers the values of the config.
func (r *registers) next() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values++
	return r.values
}

// call sends a request and notes what came of it. A write without an answer may
// happen at any time from its call on.
func (r *registers) call(client int, n *bubble.Node, register string, a access, q bubble.Request, read func(body []byte) (string, error)) {
	q.Token, q.Header = r.token, map[string]string{"X-Muster-Consistency": "linearizable"}
	op := porcupine.Operation{ClientId: client, Input: a, Output: "", Call: int64(time.Since(r.began))}
	answer, err := n.Try(q)
	if err == nil && answer.Status != http.StatusOK {
		err = fmt.Errorf("status %d", answer.Status)
	}
	if err == nil && read != nil {
		op.Output, err = read([]byte(answer.Body))
	}
	op.Return = int64(time.Since(r.began))
	if err != nil {
		if !a.write {
			return
		}
		op.Return = math.MaxInt64
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops[register] = append(r.ops[register], op)
}

func (r *registers) check(t *testing.T) {
	t.Helper()
	for name, ops := range r.ops {
		open := 0
		for _, o := range ops {
			if o.Return == math.MaxInt64 {
				open++
			}
		}
		t.Logf("%s: %d calls, %d of them writes without an answer", name, len(ops), open)
		if len(ops)-open < 10 {
			t.Errorf("%s: that is too few", name)
		}
		if !porcupine.CheckOperations(register, withoutUnseen(ops)) {
			t.Errorf("%s is no register:%s", name, describe(ops))
		}
	}
}
