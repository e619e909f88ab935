// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package broker

import "testing"

// FuzzEachValue: whatever a batch holds, reading it ends, within its bytes.
func FuzzEachValue(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, batchHeaderBytes))
	one := make([]byte, batchHeaderBytes, batchHeaderBytes+10)
	one[countAt+3] = 1
	f.Add(append(one, 16, 0, 0, 0, 2, 'k', 2, 'v', 0))
	f.Fuzz(func(t *testing.T, batch []byte) {
		size := 0
		eachValue(batch, func(value []byte) { size += len(value) })
		if size > len(batch) {
			t.Errorf("values of %d bytes in a batch of %d", size, len(batch))
		}
	})
}
