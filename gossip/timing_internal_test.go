// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"muster/fleet"
)

// The times that operators read are those of the code.
func TestTimesOfOperations(t *testing.T) {
	b, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(b), "### How soon a dead node is gone")
	section, _, _ = strings.Cut(section, "\n### ")
	times := func(profile Profile) []time.Duration {
		g := &Mesh{
			opts:   Options{Profile: profile, Self: fleet.Member{NodeID: "n"}},
			logger: slog.New(slog.DiscardHandler), transport: &transport{advertise: netip.MustParseAddrPort("192.0.2.1:1")},
		}
		c, v := g.config(), newView(fleet.Member{NodeID: "n"}, profile)
		dead := time.Duration(c.SuspicionMult) * c.ProbeInterval
		return []time.Duration{
			reportInterval, profile.scale(askAfter), profile.scale(askInterval), v.maxAge, c.ProbeInterval, c.ProbeTimeout,
			dead, time.Duration(c.SuspicionMaxTimeoutMult) * dead, v.doubtFor, rejoinInterval,
		}
	}
	lan, wan := times(ProfileLAN), times(ProfileWAN)
	rows := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || strings.Contains(line, "---") || strings.Contains(cells[2], "lan") {
			continue
		}
		if rows == len(lan) {
			t.Fatalf("more rows than times: %s", line)
		}
		for i, want := range []time.Duration{lan[rows], wan[rows]} {
			got, err := time.ParseDuration(strings.ReplaceAll(cells[2+i], " ", ""))
			if err != nil || got != want {
				t.Errorf("%s: %s, is %s: %v", cells[1], cells[2+i], want, err)
			}
		}
		rows++
	}
	if rows != len(lan) {
		t.Errorf("%d rows for %d times", rows, len(lan))
	}
	if want := fmt.Sprintf("--profile wan` is %d times slower", wanFactor); !strings.Contains(section, want) {
		t.Errorf("it does not say %q", want)
	}
}
