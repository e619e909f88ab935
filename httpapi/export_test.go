// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"maps"
	"net/http"
	"slices"
)

// For the tests of sets of agents.
var (
	ReadSet  = readSet
	WriteSet = writeSet
)

// SearchWith sets the goroutines of one search.
func (a *API) SearchWith(hands int) { a.hands = hands }

// WalkAtMost bounds the agents that one page of a filtered list looks at.
func (a *API) WalkAtMost(n int) { a.walk = n }

// Server is net/http's server as Serve configures it, with nothing in front.
func (a *API) Server(kind Listener) *http.Server { return a.server(kind, nil) }

// QuickPaths are those that are answered in front of net/http's server.
func (a *API) QuickPaths() []string {
	return slices.Sorted(maps.Keys(a.newQuick(nil, ListenerSD).paths))
}
