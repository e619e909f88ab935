// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestApart: a member's word counts for a while, and a server that was removed
// means a fork only when it goes on for longer than it takes to end.
func TestApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a apart
		if a.saysRemoved() != "" || a.fork() != "" {
			t.Error("something is wrong before anything was seen")
		}
		a.note("n1~00000001")
		a.see("n2~00000002")
		<-time.After(forkAfter - time.Second)
		a.see("n2~00000002")
		if a.saysRemoved() != "n1~00000001" || a.fork() != "" {
			t.Errorf("after %s: %q, %q", forkAfter-time.Second, a.saysRemoved(), a.fork())
		}
		<-time.After(time.Second)
		if text := a.fork(); !strings.Contains(text, "n2~00000002") {
			t.Errorf("after %s: %q", forkAfter, text)
		}
		a.see("")
		if a.fork() != "" {
			t.Error("still a fork when the outsider is gone")
		}
		a.see("n3~00000003")
		if a.fork() != "" {
			t.Error("a fork at the first sight of another outsider")
		}
		<-time.After(wordKept)
		if a.saysRemoved() != "" {
			t.Error("a word counts for ever")
		}
	})
}
