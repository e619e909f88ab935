// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import "time"

// The words of Member.Standing, the best first.
const (
	StandingHealthy  = "healthy"
	StandingDegraded = "degraded"  // without Kafka or a leader: it takes agents
	StandingFull     = "full"      // from here on it is of no use to an agent
	StandingDraining = "draining"  // an operator wants it empty
	StandingNotReady = "not-ready" // it starts or stops
	StandingSilent   = "silent"    // dead, or without a report for MaxLoadAge
)

// Standing says in a word what the member is to an agent that looks for a node,
// by its last report alone. It does not allocate.
func (m *Member) Standing(now time.Time) string {
	if !m.Alive {
		return StandingSilent
	}
	switch m.standing(m.Fill(0), now) {
	case standingHealthy:
		return StandingHealthy
	case standingDegraded:
		return StandingDegraded
	case standingFull:
		return StandingFull
	case standingDraining:
		return StandingDraining
	case standingNotReady:
		return StandingNotReady
	case standingSilent:
	}
	return StandingSilent
}
