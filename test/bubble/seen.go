// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/internal/agentpb"
)

// seen is what must be true of everything that was seen in a test, whatever
// happened in it. It is safe for concurrent use.
type seen struct {
	mu *sync.Mutex
	// revisions are the highest that each agent was sent.
	revisions map[string]int
	// doubtful are revisions whose writing was not acknowledged: they may come
	// behind later ones.
	doubtful map[int]bool
	// latest is each agent's stream: what comes on an older one reaches nobody.
	latest map[string]*Agent
	// states are the hashes at each index.
	states map[uint64]string
	wrong  []string
}

func newSeen() seen {
	return seen{mu: &sync.Mutex{}, revisions: map[string]int{}, doubtful: map[int]bool{}, latest: map[string]*Agent{}, states: map[uint64]string{}}
}

// Revision makes the version of a config that counts for what no agent may see:
// a config with a lower one than it had.
func Revision(n int) string { return fmt.Sprintf("r%06d", n) }

func revisionOf(version string) (int, bool) {
	digits, ok := strings.CutPrefix(version, "r")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil
}

// clock shows the bubble's time as the log does.
const clock = "15:04:05.000"

func (a *Agent) where() string {
	if a == nil {
		return ""
	}
	return " by " + a.n.Name
}

// opened notes that an agent has another stream.
func (s *seen) opened(agentID string, stream *Agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest[agentID] = stream
}

// Doubtful says that it is not known whether, or when, a revision was written.
func (c *Cluster) Doubtful(revision int) {
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	c.seen.doubtful[revision] = true
}

// command notes what an agent was sent, on a stream of its own or, with nil, on
// the only one that it has.
func (s *seen) command(agentID string, stream *Agent, c *agentpb.Command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stream != nil && s.latest[agentID] != stream {
		return
	}
	if c.GetTask() == nil && len(c.GetConfig()) == 0 && c.GetAgentCtrl() == 0 {
		s.wrong = append(s.wrong, fmt.Sprintf("%s was sent a command with neither task nor config", agentID))
	}
	for _, item := range c.GetConfig() {
		n, ok := revisionOf(item.GetVersion())
		if !ok || s.doubtful[n] {
			continue
		}
		if had := s.revisions[agentID]; n < had {
			s.wrong = append(s.wrong, fmt.Sprintf("%s: %s was sent config revision %d after %d%s", time.Now().Format(clock), agentID, n, had, stream.where()))
		}
		s.revisions[agentID] = max(n, s.revisions[agentID])
	}
}

// state notes the hash that a node has at an index.
func (s *seen) state(node string, applied uint64, hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, ok := s.states[applied]; ok && other != hash {
		s.wrong = append(s.wrong, fmt.Sprintf("%s has hash %s at index %d, where %s was seen", node, hash, applied, other))
	}
	s.states[applied] = hash
}

// forgetStates is for when the log begins another life: after a recovery.
func (s *seen) forgetStates() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.states)
}

// check fails the test if anything was wrong.
func (s *seen) check(t *testing.T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, wrong := range s.wrong {
		t.Error(wrong)
	}
}
