// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

// For the tests of sets of agents.
var (
	ReadSet  = readSet
	WriteSet = writeSet
)

// SearchWith sets the goroutines of one search.
func (a *API) SearchWith(hands int) { a.hands = hands }

// WalkAtMost bounds the agents that one page of a filtered list looks at.
func (a *API) WalkAtMost(n int) { a.walk = n }
