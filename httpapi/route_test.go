// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import "testing"

func TestUndeclaredAccessPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a route without a declared access was accepted")
		}
	}()
	checkTable([]Route{{Method: "GET", Path: "/x", Listeners: listenersAll, handle: (&API{}).readyz}})
}
