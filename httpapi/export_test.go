// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

// For the tests of sets of agents.
var (
	ReadSet  = readSet
	WriteSet = writeSet
)

// WalkAtMost bounds the agents that one page of a filtered list looks at.
func (a *API) WalkAtMost(n int) { a.walk = n }
