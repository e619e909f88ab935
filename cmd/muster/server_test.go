// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
)

// All that is wrong with the settings is said at once, each in a line.
func TestServerSaysAllThatIsWrong(t *testing.T) {
	r := muster(t, "", "server", "--data-dir", t.TempDir(), "--node-id", "a b", "--sd-addr", "8088", "--agent-cert", "x")
	var flags []string
	for line := range strings.Lines(r.err) {
		flag, found := strings.CutPrefix(line, "muster: ")
		if !found {
			t.Errorf("line %q", line)
		}
		flag, _, _ = strings.Cut(flag, ":")
		flags = append(flags, flag)
	}
	if want := []string{"--node-id", "--agent-cert", "--sd-addr"}; r.code != exitFailed || !slices.Equal(flags, want) {
		t.Errorf("exit code %d, %q; want lines for %v", r.code, r.err, want)
	}
}
