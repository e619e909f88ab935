// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestThrottleIsBounded: made-up names and addresses do not fill the memory.
func TestThrottleIsBounded(t *testing.T) {
	th, now := newLoginThrottle(), time.Unix(1e9, 0)
	for i := range 3 * guessesKept {
		th.begin(fmt.Sprintf("user%d", i), fmt.Sprintf("addr%d", i), now)
		if i%2 == 0 {
			th.succeeded(fmt.Sprintf("user%d", i), fmt.Sprintf("addr%d", i))
		}
	}
	for name, n := range map[string]int{"pairs": th.pairs.size(), "users": th.users.size(), "addrs": th.addrs.size(), "known": th.known.size()} {
		if n > guessesKept {
			t.Errorf("%s holds %d entries, want at most %d", name, n, guessesKept)
		}
	}
}

// TestThrottleWaits: the wait doubles from one second to five minutes, and is
// forgotten half an hour after the last try.
func TestThrottleWaits(t *testing.T) {
	th, now := newLoginThrottle(), time.Unix(1e9, 0)
	var waits []time.Duration
	for len(waits) < 12 {
		wait, ok := th.begin("u", "a", now)
		if ok {
			continue
		}
		waits = append(waits, wait)
		now = now.Add(wait)
	}
	want := time.Second
	for i, wait := range waits {
		if wait != want {
			t.Errorf("wait %d is %s, want %s", i, wait, want)
		}
		want = min(maxGuessWait, 2*want)
	}
	now = now.Add(guessesForget + time.Second)
	for i := range freeGuesses {
		if _, ok := th.begin("u", "a", now); !ok {
			t.Errorf("after a pause, try %d must wait", i)
		}
	}
}

// TestThrottleLaws: whatever happened, a try is let through in the end, a right
// password clears the pair's record, and undo leaves no trace.
func TestThrottleLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		th, now := newLoginThrottle(), time.Unix(1e9, 0)
		name := rapid.SampledFrom([]string{"u1", "u2"})
		addr := rapid.SampledFrom([]string{"a1", "a2", "a3"})
		for range rapid.IntRange(0, 300).Draw(t, "tries") {
			u, a := name.Draw(t, "user"), addr.Draw(t, "addr")
			if _, ok := th.begin(u, a, now); ok && rapid.IntRange(0, 9).Draw(t, "right") == 0 {
				th.succeeded(u, a)
				if _, ok := th.begin(u, a, now); !ok {
					t.Fatal("a right password did not clear the record")
				}
				th.undo(u, a)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond)
		}
		for range 3 { // the three tables may each say no once
			wait, ok := th.begin("u1", "a1", now)
			if ok {
				return
			}
			if wait <= 0 || wait > maxGuessWait {
				t.Fatalf("must wait %s", wait)
			}
			now = now.Add(wait)
		}
		if _, ok := th.begin("u1", "a1", now); !ok {
			t.Fatal("who waits as told is still not let through")
		}
	})
}
