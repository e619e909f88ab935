// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"muster/fleet"
	"muster/raftstore"
)

// crashDir, if set, makes the test binary a node that writes until it is killed.
const crashDir = "MUSTER_TEST_CRASH_DIR"

// TestMain lets the test binary play the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeUntilKilled reports agents and prints the number of each that is acknowledged.
func writeUntilKilled(dir string) error {
	opts := options(dir)
	opts.Fatal = nil
	opts.Tuning.TrailingLogs, opts.Tuning.SnapshotEntries, opts.Tuning.SnapshotInterval = 8, 16, 5*time.Millisecond
	s, err := raftstore.New(opts)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { fmt.Println("error", s.Run(context.Background())) })
	ctx := context.Background()
	if !s.Bootstrapped() {
		if err := s.Bootstrap(ctx, "cluster-1", []byte("ca")); err != nil {
			return err
		}
	}
	if err := s.WaitReady(ctx); err != nil {
		return err
	}
	first := s.AgentCount()
	fmt.Println("ready", first)
	for w := range 4 {
		wg.Go(func() {
			for i := first + w; ; i += 4 {
				id := fmt.Sprintf("w%d-%06d", w, i)
				if err := s.ReportAgents(ctx, []fleet.AgentReport{{Identity: fleet.Identity{AgentID: id}, SeenAt: 1}}); err != nil {
					fmt.Println("error", err)
					return
				}
				fmt.Println("wrote", id)
			}
		})
	}
	wg.Wait()
	return nil
}

// crashRun starts a writer, kills it some time after its start, or after it is
// ready to write, and returns what it printed.
func crashRun(t *testing.T, dir string, life time.Duration, start bool) (acknowledged []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	kill := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	if start {
		kill.Reset(life)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case "ready":
			if !start {
				kill.Reset(life)
			}
		case "wrote":
			acknowledged = append(acknowledged, rest)
		case "error":
			t.Errorf("the writer: %s", rest)
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	return acknowledged
}

// Whatever the instant of kill -9, everything acknowledged is there afterwards.
func TestKilledAtAnyInstant(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rounds := 50
	if testing.Short() {
		rounds = 5
	}
	if v, err := strconv.Atoi(os.Getenv("MUSTER_TEST_KILLS")); err == nil {
		rounds = v
	}
	acknowledged := map[string]bool{}
	wrote := 0
	for range rounds {
		ids := crashRun(t, dir, time.Duration(rand.IntN(80))*time.Millisecond, rand.IntN(5) == 0)
		for _, id := range ids {
			acknowledged[id] = true
		}
		if len(ids) > 0 {
			wrote++
		}
		if t.Failed() {
			return
		}
		s, err := raftstore.New(options(dir))
		must(t, err)
		checkState(t, s)
		// What is in the state without the log is what was applied: all that was acknowledged.
		for id := range acknowledged {
			if _, err := s.Agent(id); err != nil {
				t.Fatalf("acknowledged and lost: %s: %v", id, err)
			}
		}
		must(t, s.Close())
	}
	t.Logf("%d writes were acknowledged in %d of %d lives", len(acknowledged), wrote, rounds)
	if wrote < rounds/2 {
		t.Errorf("only %d of %d lives got to write", wrote, rounds)
	}
	n := lone(t, dir)
	if n.AgentCount() < len(acknowledged) {
		t.Fatalf("%d agents, %d acknowledged", n.AgentCount(), len(acknowledged))
	}
}
