// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"
	"net/netip"
	"time"
)

// Limits of guessing. Each of the three is per node and lives in memory.
const (
	// After freeGuesses wrong passwords of one user from one address the next try
	// must wait a second; each one more doubles that, up to maxGuessWait.
	freeGuesses  = 10
	maxGuessWait = 5 * time.Minute
	// guessesForget is after how long without a try a pair starts afresh.
	guessesForget = 30 * time.Minute
	// wideGuesses wrong passwords are let through for one user from all
	// addresses, and for one address over all users; then one each wideRefill.
	wideGuesses = 100
	wideRefill  = 6 * time.Second
	// guessesKept bounds each of the tables.
	guessesKept = 8192

	// strayBurst unknown tokens of one address are answered 401; then one each
	// strayRefill, the others 429. A token that is known never waits.
	strayBurst  = 60
	strayRefill = time.Second

	touchAgain = time.Minute
)

// loginThrottle slows guessing down. A pair of user and address that guessed
// wrong waits ever longer. A user guessed at from many addresses, and an
// address that tries many users, run out of a bucket; but a pair that has
// logged in before is only held to its own record, so nobody can lock an
// operator out of the place that he works from.
type loginThrottle struct {
	pairs *lru[guesses]
	users *lru[bucket]
	addrs *lru[bucket]
	known *lru[struct{}]
}

// guesses is the record of one user from one address.
type guesses struct {
	wrong int
	last  time.Time
	until time.Time // no try before
}

func newLoginThrottle() *loginThrottle {
	return &loginThrottle{
		pairs: newLRU[guesses](guessesKept), users: newLRU[bucket](guessesKept),
		addrs: newLRU[bucket](guessesKept), known: newLRU[struct{}](guessesKept),
	}
}

// begin counts a try as a wrong one before the password is looked at, so that
// tries at the same time count too; succeeded takes it back. It returns how
// long to wait if the try is refused.
func (t *loginThrottle) begin(user, addr string, now time.Time) (wait time.Duration, ok bool) {
	pair := addr + " " + user
	known := t.isKnown(pair)
	t.pairs.update(pair, func(g *guesses) bool {
		if now.Sub(g.last) > guessesForget {
			*g = guesses{}
		}
		wait = g.until.Sub(now)
		return g.wrong > 0
	})
	if wait > 0 {
		return wait, false
	}
	if !known {
		if wait, ok = take(t.addrs, addr, wideGuesses, wideRefill, now); !ok {
			return wait, false
		}
		if wait, ok = take(t.users, user, wideGuesses, wideRefill, now); !ok {
			return wait, false
		}
	}
	t.pairs.update(pair, func(g *guesses) bool {
		// Another try may have come in between.
		if wait = g.until.Sub(now); wait > 0 {
			return true
		}
		g.wrong++
		g.last = now
		if over := g.wrong - freeGuesses; over >= 0 {
			g.until = now.Add(min(maxGuessWait, time.Second<<min(over, 16)))
		}
		return true
	})
	if wait > 0 {
		if !known {
			giveBack(t.addrs, addr)
			giveBack(t.users, user)
		}
		return wait, false
	}
	return 0, true
}

// undo takes back a try that was never judged.
func (t *loginThrottle) undo(user, addr string) {
	pair := addr + " " + user
	t.pairs.update(pair, func(g *guesses) bool {
		g.wrong, g.until = g.wrong-1, time.Time{}
		return g.wrong > 0
	})
	if !t.isKnown(pair) {
		giveBack(t.addrs, addr)
		giveBack(t.users, user)
	}
}

// succeeded forgets what was held against the pair.
func (t *loginThrottle) succeeded(user, addr string) {
	pair := addr + " " + user
	t.pairs.update(pair, func(*guesses) bool { return false })
	if !t.isKnown(pair) {
		giveBack(t.addrs, addr)
		giveBack(t.users, user)
	}
	t.known.update(pair, func(*struct{}) bool { return true })
}

func (t *loginThrottle) isKnown(pair string) bool {
	t.known.mu.Lock()
	defer t.known.mu.Unlock()
	_, ok := t.known.items[pair]
	return ok
}

// bucket counts what was taken; it leaks one each refill.
type bucket struct {
	taken float64
	at    time.Time
}

// take takes one from the key's bucket, or says when there will be one.
func take(t *lru[bucket], key string, size float64, refill time.Duration, now time.Time) (wait time.Duration, ok bool) {
	t.update(key, func(b *bucket) bool {
		b.taken = max(0, b.taken-float64(now.Sub(b.at))/float64(refill))
		b.at = now
		if over := b.taken + 1 - size; over > 0 {
			wait = time.Duration(over * float64(refill))
			return true
		}
		b.taken++
		ok = true
		return true
	})
	return wait, ok
}

func giveBack(t *lru[bucket], key string) {
	t.update(key, func(b *bucket) bool {
		b.taken = max(0, b.taken-1)
		return b.taken > 0
	})
}

// strayTokens bounds how often an address may come with tokens that nobody knows.
type strayTokens struct{ addrs *lru[bucket] }

func newStrayTokens() *strayTokens { return &strayTokens{addrs: newLRU[bucket](guessesKept)} }

func (s *strayTokens) allow(addr string, now time.Time) (wait time.Duration, ok bool) {
	return take(s.addrs, addr, strayBurst, strayRefill, now)
}

// undo takes back one that turned out to be known.
func (s *strayTokens) undo(addr string) { giveBack(s.addrs, addr) }

// touches remembers when the last use of a token was last tried to be noted.
type touches struct{ tried *lru[time.Time] }

func newTouches() *touches { return &touches{tried: newLRU[time.Time](guessesKept)} }

func (t *touches) begin(tokenID string, now time.Time) (ok bool) {
	t.tried.update(tokenID, func(at *time.Time) bool {
		if ok = now.Sub(*at) >= touchAgain; ok {
			*at = now
		}
		return true
	})
	return ok
}

// sourceKey names where a request comes from in the tables above: the address,
// of IPv6 the /64, because a host may use all of that.
func sourceKey(r *http.Request) string {
	ip := sourceAddr(r)
	if ip.Is6() {
		return netip.PrefixFrom(ip, 64).Masked().String()
	}
	return ip.String()
}
