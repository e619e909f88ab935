// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package password_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"muster/internal/password"
)

func TestHashAndVerify(t *testing.T) {
	h := password.New()
	for _, pw := range []string{"", "hids_test", "пароль", strings.Repeat("x", password.MaxBytes)} {
		text, err := h.Hash(t.Context(), pw)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(text, "$argon2id$v=19$m=19456,t=2,p=1$") {
			t.Errorf("Hash = %q, want argon2id with 19 MiB, 2 passes, 1 lane", text)
		}
		for try, want := range map[string]bool{pw: true, pw + "x": false, "y" + pw: false} {
			ok, err := h.Verify(t.Context(), text, try)
			if err != nil || ok != want {
				t.Errorf("Verify(%.20q) = %v, %v, want %v", try, ok, err, want)
			}
		}
	}
}

func TestEqualPasswordsHaveDifferentHashes(t *testing.T) {
	h := password.New()
	a, errA := h.Hash(t.Context(), "same")
	b, errB := h.Hash(t.Context(), "same")
	if errA != nil || errB != nil || a == b {
		t.Errorf("Hash twice = %q, %v and %q, %v, want two different ones", a, errA, b, errB)
	}
}

func TestUnknownUserNeverPasses(t *testing.T) {
	h := password.New()
	if ok, err := h.Verify(t.Context(), "", ""); ok || err != nil {
		t.Errorf("Verify without a hash = %v, %v, want false", ok, err)
	}
}

func TestTooLong(t *testing.T) {
	h := password.New()
	if _, err := h.Hash(t.Context(), strings.Repeat("x", password.MaxBytes+1)); !errors.Is(err, password.ErrTooLong) {
		t.Errorf("Hash of a long password: %v, want ErrTooLong", err)
	}
	text, err := h.Hash(t.Context(), strings.Repeat("x", password.MaxBytes))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := h.Verify(t.Context(), text, strings.Repeat("x", password.MaxBytes+1)); ok || err != nil {
		t.Errorf("Verify of a longer password = %v, %v, want false", ok, err)
	}
}

func TestMalformedHashes(t *testing.T) {
	h := password.New()
	good, err := h.Hash(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"x", "$", good + "$", good[:len(good)-2], strings.Replace(good, "argon2id", "argon2i", 1),
		strings.Replace(good, "m=19456", "m=4294967295", 1), strings.Replace(good, "m=19456", "m=019456", 1),
		strings.Replace(good, "t=2", "t=0", 1), strings.Replace(good, "p=1", "p=0", 1),
		strings.Replace(good, "v=19", "v=16", 1), strings.Repeat("$", 1000),
	} {
		if ok, err := h.Verify(t.Context(), bad, "x"); ok || !errors.Is(err, password.ErrMalformed) {
			t.Errorf("Verify(%.60q) = %v, %v, want ErrMalformed", bad, ok, err)
		}
	}
}

// TestBounded: of very many callers at once some are told to come back, the
// others are served; nobody waits beyond his context.
func TestBounded(t *testing.T) {
	h := password.New()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := make(map[string]int)
	for range 300 {
		wg.Go(func() {
			_, err := h.Verify(gone, "", "x")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				count["served"]++
			case errors.Is(err, password.ErrBusy):
				count["busy"]++
			case errors.Is(err, context.Canceled):
				count["gone"]++
			default:
				t.Errorf("Verify = %v", err)
			}
		})
	}
	wg.Wait()
	if count["gone"] == 0 {
		t.Errorf("outcomes %v, want some that did not wait beyond their context", count)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$$")
	h := password.New()
	f.Fuzz(func(t *testing.T, text string) {
		if ok, err := h.Verify(t.Context(), text, "guess"); ok && err != nil {
			t.Errorf("Verify(%q) = %v, %v", text, ok, err)
		}
	})
}
