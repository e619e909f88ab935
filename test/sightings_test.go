// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"sync"
	"testing"

	"muster/internal/agentpb"
)

func notYet(node, agent string) error {
	return fmt.Errorf("%s does not know agent %s yet", node, agent)
}

// sightings are the configs that agents were sent, in their order.
type sightings struct {
	mu       sync.Mutex
	versions map[string][]string // by agent; a version that is sent again stands there once
	empty    int
}

// see is a hook of the agents.
func (s *sightings) see(agentID string, command *agentpb.Command) {
	if command.GetTask() != nil {
		return
	}
	version := ""
	for _, item := range command.GetConfig() {
		if item.GetName() == "collector" {
			version = item.GetVersion()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(command.GetConfig()) == 0 {
		s.empty++
		return
	}
	if s.versions == nil {
		s.versions = make(map[string][]string)
	}
	if seen := s.versions[agentID]; len(seen) == 0 || seen[len(seen)-1] != version {
		s.versions[agentID] = append(seen, version)
	}
}

// check wants no agent to have been sent an empty list, nor a config that is
// older than one that it had. In which order configs came, clients were told;
// one whose writer had no answer, and that nobody read, has no place in it.
func (s *sightings) check(t testing.TB, h *history) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.empty > 0 {
		t.Errorf("agents were sent %d empty configs", s.empty)
	}
	if len(s.versions) == 0 {
		t.Error("no agent was sent a config")
	}
	sent, unplaced := 0, 0
	for agent, versions := range s.versions {
		newest := uint64(0)
		for i, v := range versions {
			revision, known := h.revisions[v]
			sent++
			switch {
			case !known:
				unplaced++
			case revision < newest:
				t.Errorf("agent %s: config %s (revision %d) came after %v (revision %d)", agent, v, revision, versions[max(0, i-3):i], newest)
			default:
				newest = revision
			}
		}
	}
	t.Logf("%d agents were sent %d configs, %d of them of writers without an answer", len(s.versions), sent, unplaced)
}
