// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

const (
	// writePause is between the writes of one client.
	writePause = 20 * time.Millisecond
	// writeWithin bounds one write: nodes answer within 10 s whatever happens.
	writeWithin = 15 * time.Second
)

// Writers are clients that write something new again and again, each through a
// node of its own, and remember what was acknowledged. What they write are
// access keys, told apart by their notes.
type Writers struct {
	c    *Cluster
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	acked   map[string]bool // by note; false: no answer, or a refusal
	refused error           // an answer that no fault excuses
}

// Write starts a client for each node.
func (c *Cluster) Write(nodes ...*Node) *Writers {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &Writers{c: c, stop: cancel, acked: make(map[string]bool)}
	life := time.Now().UnixNano()
	token := c.Token()
	for i, n := range nodes {
		client := n.API(token, writeWithin)
		w.wg.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				w.write(client, fmt.Sprintf("%d %s.%d %d", life, n.Name, i, k))
				pause(ctx, writePause)
			}
		})
	}
	c.t.Cleanup(w.Stop)
	return w
}

func (w *Writers) write(client *apiclient.Client, note string) {
	w.mu.Lock()
	w.acked[note] = false
	w.mu.Unlock()
	err := WriteKey(context.Background(), client, note)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked[note] = err == nil
	if refused, ok := errors.AsType[*apiclient.Error](err); ok && refused.Status < 500 {
		w.refused = fmt.Errorf("write %q: status %d: %w", note, refused.Status, err)
	}
}

// WriteKey makes an access key with this note.
func WriteKey(ctx context.Context, client *apiclient.Client, note string) error {
	return client.Do(ctx, http.MethodPost, "/v1/keys", apiv1.NewKey{Scope: "sd", Note: note}, nil)
}

// Stop ends the clients, each after the answer that it waits for.
func (w *Writers) Stop() {
	w.stop()
	w.wg.Wait()
}

// Acked is how many writes were acknowledged so far.
func (w *Writers) Acked() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ok := range w.acked {
		if ok {
			n++
		}
	}
	return n
}

// Check stops the clients and wants each of these nodes to have every
// acknowledged write, and none twice.
func (w *Writers) Check(t testing.TB, nodes ...*Node) {
	t.Helper()
	w.Stop()
	if w.refused != nil {
		t.Error(w.refused)
	}
	for _, n := range nodes {
		have := make(map[string]int)
		for key, err := range apiclient.All[apiv1.Key](t.Context(), n.Linearizable(w.c.Token(), writeWithin), "/v1/keys", nil, 0) {
			if err != nil {
				t.Fatal(err)
			}
			have[key.Note]++
		}
		lost, twice := 0, 0
		for note, acked := range maps.All(w.acked) {
			if acked && have[note] == 0 {
				lost++
				t.Errorf("%s has lost the acknowledged write %q", n.Name, note)
			}
			if have[note] > 1 {
				twice++
				t.Errorf("%s has the write %q %d times", n.Name, note, have[note])
			}
		}
		if lost+twice > 0 {
			t.Errorf("%s: %d of %d acknowledged writes lost, %d are there twice", n.Name, lost, w.Acked(), twice)
		}
	}
}

// Writes waits until each of these nodes takes a write, and returns how long the
// last one took. It fails the test after that time.
func (c *Cluster) Writes(within time.Duration, nodes ...*Node) time.Duration {
	c.t.Helper()
	began := time.Now()
	took := make([]time.Duration, len(nodes))
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		client := n.API(c.Token(), within)
		wg.Go(func() {
			errs[i] = Until(within, n.Name+" takes a write", func() error {
				return WriteKey(context.Background(), client, fmt.Sprintf("again %d %s", began.UnixNano(), n.Name))
			})
			took[i] = time.Since(began)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		c.t.Fatal(err)
	}
	last := time.Duration(0)
	for _, d := range took {
		last = max(last, d)
	}
	return last
}

// pause waits, or returns early when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
