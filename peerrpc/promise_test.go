// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"muster/fleet"
	"muster/peerrpc"
)

func promises(t *testing.T, path string, expect int, cluster string) *peerrpc.Promises {
	t.Helper()
	p, err := peerrpc.OpenPromises(peerrpc.PromisesOptions{
		Path: path, Self: peerrpc.Candidate{ServerID: serverID("n"), Expect: expect}, ClusterID: func() string { return cluster },
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPromiseIsGivenOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "promise.json")
	a, b := peerrpc.Candidate{ServerID: serverID("a"), Expect: 3}, peerrpc.Candidate{ServerID: serverID("b"), Expect: 3}
	p := promises(t, path, 3, "")
	if err := p.Promise(t.Context(), peerrpc.Candidate{ServerID: a.ServerID, Expect: 5}); !errors.Is(err, fleet.ErrConflict) ||
		!strings.Contains(err.Error(), "--bootstrap-expect 3") {
		t.Errorf("another expectation: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) || p.Given() != "" {
		t.Fatalf("a refusal left something behind: %v, %q", err, p.Given())
	}
	for range 2 { // before and after a restart
		for range 2 {
			if err := p.Promise(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			if err := p.Promise(t.Context(), b); !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), a.ServerID) {
				t.Fatalf("promised twice, or without saying what to do: %v", err)
			}
		}
		p = promises(t, path, 3, "")
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "promise.golden", string(content))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := promises(t, path, 3, "c1").Promise(t.Context(), a); !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), "c1") {
		t.Errorf("with a cluster: %v", err)
	}
	if err := promises(t, path, 0, "").Promise(t.Context(), a); !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), "only joins") {
		t.Errorf("only joining: %v", err)
	}
}

func TestPromiseToManyAtOnce(t *testing.T) {
	p := promises(t, filepath.Join(t.TempDir(), "promise.json"), 2, "")
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			c := peerrpc.Candidate{ServerID: fmt.Sprintf("n~%08d", i), Expect: 2}
			if p.Promise(t.Context(), c) == nil {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, c.ServerID)
			}
		})
	}
	wg.Wait()
	if len(got) != 1 || got[0] != p.Given() {
		t.Errorf("promised to %v, given %q", got, p.Given())
	}
}

// However far the writing came: after a crash, the promise is to the one who
// asked or to nobody, and once it was answered it is there.
func TestPromiseKilledAtEachStep(t *testing.T) {
	a, b := peerrpc.Candidate{ServerID: serverID("a"), Expect: 3}, peerrpc.Candidate{ServerID: serverID("b"), Expect: 3}
	var steps []string
	p := promises(t, filepath.Join(t.TempDir(), "promise.json"), 3, "")
	p.OnStep(func(step string) { steps = append(steps, step) })
	if err := p.Promise(t.Context(), a); err != nil || len(steps) < 5 {
		t.Fatalf("steps %q, %v", steps, err)
	}
	for _, killed := range steps {
		t.Run(killed, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "promise.json")
			p := promises(t, path, 3, "")
			p.OnStep(func(step string) {
				if step == killed {
					panic("killed")
				}
			})
			func() {
				defer func() { _ = recover() }()
				_ = p.Promise(t.Context(), a)
				t.Error("answered")
			}()
			p = promises(t, path, 3, "")
			if given := p.Given(); given != "" && given != a.ServerID {
				t.Fatalf("given to %q", given)
			}
			if p.Given() == "" {
				a, b = b, a // then the other one may have it
			}
			if err := p.Promise(t.Context(), a); err != nil {
				t.Error(err)
			}
			if err := p.Promise(t.Context(), b); err == nil {
				t.Error("given to both")
			}
		})
	}
}

// A promise whose writing failed may be on disk: nobody else gets it, and the
// one who asked gets it when the disk works again.
func TestPromiseThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	a, b := peerrpc.Candidate{ServerID: serverID("a"), Expect: 3}, peerrpc.Candidate{ServerID: serverID("b"), Expect: 3}
	p := promises(t, filepath.Join(dir, "promise.json"), 3, "")
	var refusal *fleet.Refusal
	if err := p.Promise(t.Context(), a); err == nil || errors.As(err, &refusal) {
		t.Fatalf("without a directory: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.Promise(t.Context(), b); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("given to another: %v", err)
	}
	if err := p.Promise(t.Context(), a); err != nil {
		t.Error(err)
	}
}

func TestDamagedPromise(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "is damaged",
		"{}":                             "is damaged",
		`{"format":1}`:                   "is damaged",
		`{"format":1,"candidate":"a`:     "is damaged",
		`{"format":2,"candidate":"a~1"}`: "newer version",
	} {
		path := filepath.Join(t.TempDir(), "promise.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := peerrpc.OpenPromises(peerrpc.PromisesOptions{
			Path: path, Self: peerrpc.Candidate{ServerID: serverID("n")}, ClusterID: func() string { return "" },
		})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestAskPromise(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		self := peerrpc.Candidate{ServerID: serverID("n"), Expect: 3}
		kept := promises(t, filepath.Join(t.TempDir(), "promise.json"), 3, "")
		broken := false
		n := w.newcomer("n", "10.0.0.1", func(n *node) {
			n.opts.Promiser = promiser(func(c peerrpc.Candidate) error {
				if broken {
					return errors.New("disk full")
				}
				return kept.Promise(context.Background(), c)
			})
		})
		a, b := w.newcomer("a", "10.0.0.2"), w.newcomer("b", "10.0.0.3")
		ask := func(from *node, asked string) error {
			return from.port.AskPromise(t.Context(), n.addr, asked, peerrpc.Candidate{ServerID: from.id, Expect: 3})
		}
		if err := ask(a, serverID("z")); !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), "but this is "+self.ServerID) {
			t.Errorf("asked somebody else: %v", err)
		}
		for range 2 {
			if err := ask(a, n.id); err != nil {
				t.Errorf("the first one: %v", err)
			}
			if err := ask(b, n.id); !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), "has promised a~0a1b2c3d") {
				t.Errorf("the second one: %v", err)
			}
		}
		broken = true
		if err := ask(a, n.id); !errors.Is(err, fleet.ErrUnavailable) || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("a full disk: %v", err)
		}
		if got := n.count("asks_total", "what", "promise", "outcome", "ok"); got != 2 {
			t.Errorf("%v promises counted", got)
		}
	})
}
