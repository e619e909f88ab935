// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"
)

// Whoever tries Muster pastes these lines: the token must exist before it is
// used, and nothing may be left to fill in.
func TestWelcome(t *testing.T) {
	text := welcomeText(20, "http://127.0.0.1:6701", "/tmp/d/admin-password", "bin/muster", "/tmp/d/token")
	rest := text
	for _, want := range []string{
		"20 simulated agents", "URL        http://127.0.0.1:6701\n", "user       admin\n", "password   in /tmp/d/admin-password\n",
		"  curl --location --request POST http://127.0.0.1:6701/api/v1/user/login ",
		"  bin/muster token new --user admin --password-file /tmp/d/admin-password --out /tmp/d/token\n",
		`  curl --location --request GET 'http://127.0.0.1:6701/api/v1/agent/getStatus?page_size=3' -H "token: $(cat /tmp/d/token)"` + "\n",
		"  bin/muster agent list --token-file /tmp/d/token\n",
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("%q is missing, or not in its place:\n%s", want, text)
		}
		rest = after
	}
	if strings.Contains(text, "...") || strings.Contains(text, "%!") {
		t.Errorf("something is left to fill in:\n%s", text)
	}
}

func TestDevNeedsPorts(t *testing.T) {
	taken := errors.New("--http-addr 127.0.0.1:6701: address already in use")
	if err := devNeeds(taken); !errors.Is(err, taken) || !strings.Contains(err.Error(), "muster dev needs ports 6701 6751 6752 7946 8088 free") {
		t.Errorf("%v", err)
	}
	other := errors.New("disk full")
	if err := devNeeds(other); !errors.Is(err, other) || err.Error() != "disk full" {
		t.Errorf("%v", err)
	}
	if err := devNeeds(nil); err != nil {
		t.Errorf("%v", err)
	}
}
