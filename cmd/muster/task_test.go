// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// A plugin that no target reports is worth a warning, and no more than that.
func TestUnreportedPlugin(t *testing.T) {
	for args, want := range map[string]struct{ warning, asked string }{
		"--agent a1 --plugin drvier":       {"of 1 agent looked at, none reports the plugin drvier", "GET /v1/agents/a1"},
		"--all --plugin drvier":            {"of 2 agents looked at, none", "GET /v1/agents?limit=200"},
		"--tag web --plugin drvier":        {"of 2 agents looked at, none", "GET /v1/agents?limit=200&tag=web"},
		"--agent a1 --plugin driver":       {"", "GET /v1/agents/a1"},
		"--all --plugin driver":            {"", "GET /v1/agents?limit=200"},
		"--all --plugin elkeid-agent":      {"", ""},
		"--agent unknown --plugin scanner": {"", "GET /v1/agents/unknown"},
	} {
		f := newFakeNode(t, someAnswers())
		r := f.muster(t, "", append([]string{"task", "create", "--data-type", "1"}, strings.Fields(args)...)...)
		if r.code != exitOK || !strings.Contains(r.out, "Task 17734a") {
			t.Fatalf("%s: %+v", args, r)
		}
		if want.warning == "" && r.err != "" || !strings.Contains(r.err, want.warning) {
			t.Errorf("%s: %q, want %q", args, r.err, want.warning)
		}
		if asked := strings.Join(f.asked[1:], "; "); asked != want.asked {
			t.Errorf("%s: asked %q, want %q", args, asked, want.asked)
		}
	}
}
