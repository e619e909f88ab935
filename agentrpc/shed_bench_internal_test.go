// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"fmt"
	"testing"
)

// BenchmarkExpendable is what a node with 20,000 agents pays each second while
// it sheds.
func BenchmarkExpendable(b *testing.B) {
	s, all := benchServer(b)
	for i, sess := range all {
		sess.peer = peerInfo{conn: &leanConn{raw: &agentConn{}}, addr: fmt.Sprintf("10.%d.%d.%d:40000", i>>16, i>>8&255, i&255)}
	}
	b.ReportAllocs()
	for b.Loop() {
		s.expendable()
	}
}
