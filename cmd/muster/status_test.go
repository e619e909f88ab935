// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/apiv1"
)

// TestStatusAdvice: what is wrong with a cluster comes with what to do, the
// worst first; a sound cluster has one line.
func TestStatusAdvice(t *testing.T) {
	live := func(name, role string) apiv1.Node {
		return apiv1.Node{Name: name, ServerID: name + "~1", State: "ready", Role: role, Kafka: "ok"}
	}
	dead := func(name, id string) apiv1.Node {
		return apiv1.Node{Name: name, ServerID: id, State: "dead", Role: "voter"}
	}
	ending, newcomer, far := live("n2", "voter"), live("n4", "none"), live("n3", "non-voter")
	ending.CertificateEnd = now.Add(24 * time.Hour)
	far.Lag = 5000
	replaced := dead("n3", "n3~0")
	replaced.Role = "none"
	for name, tt := range map[string]struct {
		cluster apiv1.Cluster
		nodes   []apiv1.Node
		want    []string
	}{
		"sound": {
			apiv1.Cluster{ID: "c1", Leader: "n1", Term: 4, Voters: 3, VotersAlive: 3, Quorum: 2},
			[]apiv1.Node{live("n1", "leader"), live("n2", "voter"), live("n3", "voter"), replaced},
			[]string{"Cluster c1: n1 leads, term 4; 3 of 3 voters are up, 2 must be"},
		},
		"alone": {
			apiv1.Cluster{ID: "c1", Leader: "n1", Term: 1, Voters: 1, VotersAlive: 1, Quorum: 1},
			[]apiv1.Node{live("n1", "leader")},
			[]string{"Cluster c1: n1 leads, term 1; 1 of 1 voter is up, 1 must be"},
		},
		"majority lost": {
			apiv1.Cluster{ID: "c1", Voters: 3, VotersAlive: 1, Quorum: 2},
			[]apiv1.Node{live("n1", "voter"), dead("n2", "n2~1"), dead("n3", "n3~1"), live("n3", "none")},
			[]string{
				"Cluster c1: NO LEADER: changes are refused until there is one; 1 of 3 voters is up, 2 must be",
				"  ! the majority is lost: start the dead nodes with their data. Only if that is lost for good: stop the node of those that are left whose log goes furthest (/readyz of each says how far), and start it once with --recover --yes",
				"  ! n2 is dead",
				"  ! n3 is dead",
				"  ! n3 is not a member: if it was removed, stop it, else see its log for what it waits for",
			},
		},
		"election": {
			apiv1.Cluster{ID: "c1", Voters: 3, VotersAlive: 3, Quorum: 2},
			[]apiv1.Node{live("n1", "voter"), live("n2", "voter"), live("n3", "voter")},
			[]string{
				"Cluster c1: NO LEADER: changes are refused until there is one; 3 of 3 voters are up, 2 must be",
				"  ! no leader is known to n1: there should be one in a few seconds; if not, see the logs of the voters",
			},
		},
		"worn": {
			apiv1.Cluster{ID: "c1", Leader: "n1", Term: 4, Voters: 2, VotersAlive: 2, Quorum: 2, Quarantined: "at index 64 the state differs"},
			[]apiv1.Node{live("n1", "leader"), ending, far, newcomer},
			[]string{
				"Cluster c1: n1 leads, term 4; 2 of 2 voters are up, 2 must be",
				"  ! n1 is quarantined: at index 64 the state differs",
				"  ! n2: its certificate ends in 24h and is not renewed: see its log",
				"  ! n3 is 5,000 entries behind; it catches up by itself",
				"  ! n4 is not a member: if it was removed, stop it, else see its log for what it waits for",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeNode(t, map[string]any{
				"GET /v1/status": apiv1.Status{Node: "n1", Cluster: tt.cluster}, "GET /v1/nodes": page(tt.nodes...),
			})
			r := f.muster(t, "", "status")
			head, _, _ := strings.Cut(r.out, "\n\n")
			if diff := cmp.Diff(tt.want, strings.Split(head, "\n")); r.code != exitOK || diff != "" {
				t.Errorf("exit code %d, %s (-want +got):\n%s", r.code, r.err, diff)
			}
		})
	}
}

// TestMissingNodes: who did not answer stands in the JSON.
func TestMissingNodes(t *testing.T) {
	p := page(apiv1.Node{Name: "n1"})
	p.PageInfo = &apiv1.PageInfo{Missing: []string{"n2"}}
	f := newFakeNode(t, map[string]any{"GET /v1/status": apiv1.Status{Node: "n1"}, "GET /v1/nodes": p})
	if r := f.muster(t, "", "status", "-o", "yaml"); !strings.Contains(r.out, "missing:\n  - n2\n") {
		t.Error(r)
	}
}

// TestNodeStates: equal states at one index pass, different ones do not; nor
// does a node that says nothing.
func TestNodeStates(t *testing.T) {
	answers := someAnswers()
	n1 := apiv1.NodeState{Node: "n1", ServerID: "n1~0a", Applied: 42, Hash: "aa", Ready: true}
	n2 := apiv1.NodeState{Node: "n2", ServerID: "n2~0b", Applied: 42, Hash: "aa", Ready: true}
	answers["GET /v1/nodes/n1~0a/state"], answers["GET /v1/nodes/n2~0b/state"] = n1, n2
	if r := newFakeNode(t, answers).muster(t, "", "node", "state"); r.code != exitOK {
		t.Errorf("equal states: %+v", r)
	}
	n2.Hash = "bb"
	answers["GET /v1/nodes/n2~0b/state"] = n2
	if r := newFakeNode(t, answers).muster(t, "", "node", "state"); r.code != exitFailed || !strings.Contains(r.err, "n1 and n2 differ at index 42") || !strings.Contains(r.out, "bb") {
		t.Errorf("different states: %+v", r)
	}
	answers["GET /v1/nodes/n1~0a/state"] = apiv1.Problem{Status: 504, Code: "timeout", Detail: "node n1 did not answer within 2 s"}
	if r := newFakeNode(t, answers).muster(t, "", "node", "state"); r.code != exitFailed || !strings.Contains(r.err, "did not answer") || !strings.Contains(r.out, "n2~0b") {
		t.Errorf("a silent node: %+v", r)
	}
}
