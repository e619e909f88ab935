// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import "fmt"

// NotVisible is a write that is committed, or a read that was asked for, at an
// index of the log that this node has not applied within the wait. It matches
// ErrNotVisible.
type NotVisible struct {
	Index uint64
}

// Error names the index, which X-Muster-Min-Index takes.
func (e *NotVisible) Error() string {
	return fmt.Sprintf("index %d: %v", e.Index, ErrNotVisible)
}

// Unwrap returns ErrNotVisible.
func (*NotVisible) Unwrap() error { return ErrNotVisible }
