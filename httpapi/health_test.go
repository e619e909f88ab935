// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"testing"

	"muster/httpapi"
)

func TestHealth(t *testing.T) {
	w := newWorld(t)
	w.health.Degraded = []string{"kafka away for 12 s"}
	w.golden("readyz_degraded", w.do("GET /readyz", request{kind: httpapi.ListenerSD}))
	w.health = httpapi.Health{Reasons: []string{"no leader for 11 s"}}
	rec := w.do("GET /readyz", request{})
	if rec.Code != 503 {
		t.Errorf("not ready: status %d, want 503", rec.Code)
	}
	w.golden("readyz_not", rec)
	w.golden("ping", w.do("GET /ping", request{kind: httpapi.ListenerSD}))
}
