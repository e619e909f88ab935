// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"strings"
	"testing"
	"time"
)

// TestSoakBites makes up a node that is well, and some that are not.
func TestSoakBites(t *testing.T) {
	for name, tt := range map[string]struct {
		harm func(i int, s *sample)
		want string // in the only fault; empty: none
	}{
		"well":                 {func(int, *sample) {}, ""},
		"garbage":              {func(i int, s *sample) { s.rss *= 1 + 0.05*float64(i%3) }, ""},
		"grows":                {func(i int, s *sample) { s.rss *= 1 + 0.004*float64(i) }, "memory grew by"},
		"leaks goroutines":     {func(i int, s *sample) { s.goroutines += 90 * float64(i/29) }, "goroutines"},
		"loses agents":         {func(i int, s *sample) { s.sessions -= float64(i / 29) }, "999 sessions of 1000"},
		"the ledger is amiss":  {func(i int, s *sample) { s.ledger.Delivered -= int64(i / 29) }, "does not balance"},
		"a base of goroutines": {func(_ int, s *sample) { s.goroutines += 3 }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			alone := sample{rss: 50e6, goroutines: 70}
			full := sample{rss: 100e6, goroutines: 70 + 3*1000, sessions: 1000, ledger: ledger{Received: 10, Delivered: 7, Pending: 1, Spooled: 1, Dropped: map[string]int64{"shutdown": 1}}}
			var held []sample
			for i := range 30 {
				s := full
				s.at = time.Duration(i) * 10 * time.Second
				tt.harm(i, &s)
				held = append(held, s)
			}
			faults := judge(SoakOptions{Agents: 1000}, []sample{alone, full}, held)
			switch {
			case tt.want == "" && len(faults) > 0:
				t.Errorf("faults %v, want none", faults)
			case tt.want != "" && (len(faults) != 1 || !strings.Contains(faults[0].Error(), tt.want)):
				t.Errorf("faults %v, want one with %q", faults, tt.want)
			}
		})
	}
}
