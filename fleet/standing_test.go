// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"testing"
	"time"

	"muster/fleet"
)

func TestStanding(t *testing.T) {
	now := time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
	for name, tt := range map[string]struct {
		change func(*fleet.Member)
		want   string
	}{
		"as it should be":   {func(*fleet.Member) {}, fleet.StandingHealthy},
		"without Kafka":     {func(m *fleet.Member) { m.Load.KafkaAway = true }, fleet.StandingDegraded},
		"without a leader":  {func(m *fleet.Member) { m.Load.Leaderless = true }, fleet.StandingDegraded},
		"full":              {func(m *fleet.Member) { m.Load.Sessions = 10 }, fleet.StandingFull},
		"without a limit":   {func(m *fleet.Member) { m.Load.Limit = 0 }, fleet.StandingFull},
		"draining":          {func(m *fleet.Member) { m.Load.Draining, m.Load.Sessions = true, 10 }, fleet.StandingDraining},
		"starting":          {func(m *fleet.Member) { m.Load.Ready = false }, fleet.StandingNotReady},
		"silent":            {func(m *fleet.Member) { m.ReportedAt = now.Add(-fleet.MaxLoadAge - 1) }, fleet.StandingSilent},
		"never heard":       {func(m *fleet.Member) { m.ReportedAt = time.Time{} }, fleet.StandingSilent},
		"dead":              {func(m *fleet.Member) { m.Alive = false }, fleet.StandingSilent},
		"heard just enough": {func(m *fleet.Member) { m.ReportedAt = now.Add(-fleet.MaxLoadAge) }, fleet.StandingHealthy},
	} {
		m := fleet.Member{Alive: true, ReportedAt: now, Load: fleet.Load{Ready: true, Sessions: 9, Limit: 10}}
		tt.change(&m)
		if got := m.Standing(now); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		if n := testing.AllocsPerRun(10, func() { m.Standing(now) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
