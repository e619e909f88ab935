// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// MaxLoadAge is how old a node's load report may be before agents are sent
	// elsewhere: reports come each second.
	MaxLoadAge = 3 * time.Second

	// NearTie is how far apart, in fill (streams over limit), two nodes may be
	// for chance to decide between them, so that many askers of one moment do not
	// all run to the same node.
	NearTie = 0.02
)

// standing orders nodes before their fill does: lower goes first. Those from
// standingFull on are no use to an agent, unless there are no others.
type standing int

const (
	standingHealthy standing = iota
	standingDegraded
	standingFull
	standingDraining
	standingNotReady
	standingSilent
)

// Fill is the share of the node's limit that is taken, with handedOut agents on
// their way to it. A node without a limit is full.
func (m Member) Fill(handedOut uint32) float64 {
	if m.Load.Limit == 0 {
		return 1
	}
	return (float64(m.Load.Sessions) + float64(handedOut)) / float64(m.Load.Limit)
}

func (m Member) standing(handedOut uint32, now time.Time) standing {
	switch {
	case m.ReportedAt.IsZero() || now.Sub(m.ReportedAt) > MaxLoadAge:
		return standingSilent
	case !m.Load.Ready:
		return standingNotReady
	case m.Load.Draining:
		return standingDraining
	case m.Fill(handedOut) >= 1:
		return standingFull
	case m.Load.KafkaAway || m.Load.Leaderless:
		return standingDegraded
	}
	return standingHealthy
}

// Rank returns up to count members (0: all) in the order in which an agent
// should try them: the least filled first, near ties by chance, those without
// Kafka or leader behind the healthy ones. Full, draining, unready and silent
// nodes are listed only when there are no others, the least bad first; so the
// answer is not empty while a member is alive. handedOut says, by NodeID, how
// many agents were sent to a node since its report. Without rnd ties go by NodeID.
func Rank(members []Member, handedOut map[string]uint32, now time.Time, rnd *rand.Rand, count int) []Member {
	type candidate struct {
		member   *Member
		standing standing
		key      float64
	}
	candidates := make([]candidate, 0, len(members))
	for i := range members {
		m := &members[i]
		if !m.Alive {
			continue
		}
		handed := handedOut[m.NodeID]
		c := candidate{member: m, standing: m.standing(handed, now), key: m.Fill(handed)}
		if rnd != nil {
			c.key += rnd.Float64() * NearTie
		}
		candidates = append(candidates, c)
	}
	slices.SortFunc(candidates, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(a.standing, b.standing),
			cmp.Compare(a.key, b.key),
			cmp.Compare(a.member.NodeID, b.member.NodeID))
	})
	ranked := make([]Member, 0, len(candidates))
	for _, c := range candidates {
		if c.standing >= standingFull && candidates[0].standing < standingFull {
			break
		}
		if count > 0 && len(ranked) == count {
			break
		}
		ranked = append(ranked, *c.member)
	}
	return ranked
}
