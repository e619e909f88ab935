// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"fmt"
	"testing"
)

// What is kept of agents' numbers is bounded, and right whatever was forgotten.
func TestNumbersAreBounded(t *testing.T) {
	var a agentNumbers
	if _, ok := a.get("a1"); ok {
		t.Error("a number of nobody")
	}
	for n := range uint32(maxNumbers + 2) {
		id := fmt.Sprint("a", n)
		a.put(id, n)
		if got, ok := a.get(id); !ok || got != n {
			t.Fatalf("%s has the number %d, %v", id, got, ok)
		}
		if len(a.byID) > maxNumbers {
			t.Fatalf("%d numbers are kept", len(a.byID))
		}
	}
	if _, ok := a.get("a0"); ok {
		t.Error("nothing was forgotten")
	}
}
