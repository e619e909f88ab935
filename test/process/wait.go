// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"testing"
	"time"
)

// Eventually tries until check returns nil, and fails the test with the last
// error when it has not by the deadline.
func Eventually(t testing.TB, within time.Duration, what string, check func() error) {
	t.Helper()
	if err := Until(within, what, check); err != nil {
		t.Fatal(err)
	}
}

// Until tries until check returns nil, and returns the last error when it has
// not by the deadline. Other goroutines than the test's own may call it.
func Until(within time.Duration, what string, check func() error) error {
	deadline := time.Now().Add(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %s: %w", within, what, err)
		}
		<-tick.C
	}
}

// Remains fails the test when check does not return nil all that time.
func Remains(t testing.TB, during time.Duration, what string, check func() error) {
	t.Helper()
	for end := time.Now().Add(during); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		if err := check(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
