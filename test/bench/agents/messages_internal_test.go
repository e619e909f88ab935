// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"testing"

	"pgregory.net/rapid"
)

// TestMessagesCount: however a stream is cut, each message counts once.
func TestMessagesCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		sizes := rapid.SliceOfN(rapid.IntRange(1, 300), 0, 8).Draw(t, "sizes")
		for _, n := range sizes {
			stream = append(stream, 0, 0, 0, byte(n>>8), byte(n))
			stream = append(stream, make([]byte, n)...)
		}
		var m messages
		got := 0
		for len(stream) > 0 {
			n := min(rapid.IntRange(1, 200).Draw(t, "piece"), len(stream))
			got += m.feed(stream[:n])
			stream = stream[n:]
		}
		if got != len(sizes) {
			t.Errorf("%d messages, want %d", got, len(sizes))
		}
	})
}
