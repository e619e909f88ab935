// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"math/rand/v2"
	"time"
)

// MaxLoadAge is how old a node's load report may be before agents are sent
// elsewhere: reports come each second.
const MaxLoadAge = 3 * time.Second

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

// Fill is the share of the node's limit that is taken, with onTheirWay agents
// that its report does not hold yet. A node without a limit is full.
func (m *Member) Fill(onTheirWay float64) float64 {
	if m.Load.Limit == 0 {
		return 1
	}
	return (float64(m.Load.Sessions) + onTheirWay) / float64(m.Load.Limit)
}

func (m *Member) standing(fill float64, now time.Time) standing {
	switch {
	case m.Silent(now):
		return standingSilent
	case !m.Load.Ready:
		return standingNotReady
	case m.Load.Draining:
		return standingDraining
	case fill >= 1:
		return standingFull
	case m.Load.KafkaAway || m.Load.Leaderless:
		return standingDegraded
	}
	return standingHealthy
}

// candidate is a member in the order of Rank.
type candidate struct {
	key      float64
	index    int
	standing standing
}

// before orders candidates.
func (c *candidate) before(other *candidate, members []Member) bool {
	switch {
	case c.standing != other.standing:
		return c.standing < other.standing
	case c.key != other.key:
		return c.key < other.key
	}
	return members[c.index].NodeID < members[other.index].NodeID
}

// chance is one random number stretched over all members of an answer, because a
// good one for each would cost as much as the rest. Its state is odd, thus never 0.
type chance struct{ state uint64 }

// next returns a number in [0, 1). The multiplier is one of L'Ecuyer 1999.
func (c *chance) next() float64 {
	c.state *= 1181783497276652981
	return float64(c.state>>11) / (1 << 53)
}

// Known is what the asked node knows besides the reports.
type Known struct {
	// HandedOut says of an index how many agents this node has sent to that node
	// which its report does not hold yet; nil: none.
	HandedOut func(i int) float64
	// Askers is how many nodes hand out as many as this one, itself included.
	// What this one handed out counts so many times; 0 counts as 1.
	Askers float64
	Now    time.Time
	// Rnd decides near ties; nil: NodeID does.
	Rnd *rand.Rand
}

// Rank returns the indices of up to count members (0: all) in the order in which
// an agent should try them: the least filled first, those without Kafka or leader
// behind the healthy ones. Full, draining, unready and silent nodes are listed only
// when there are no others, the least bad first; so the answer is not empty while a
// member is alive.
//
// All nodes see the same emptiest one, and each report is older than the agents
// that are on their way. So each counts what it has handed out for itself and for
// the others that are asked at random as it is; and nodes that are apart by no more
// than one agent for each asker are a near tie, which chance decides.
func Rank(members []Member, known Known, count int) []int {
	if count <= 0 || count > len(members) {
		count = len(members)
	}
	askers := max(known.Askers, 1)
	var chance chance
	if known.Rnd != nil {
		chance.state = known.Rnd.Uint64() | 1
	}
	var few [16]candidate // so that what agents ask for needs no memory
	best := few[:0]       // sorted
	for i := range members {
		m := &members[i]
		if !m.Alive {
			continue
		}
		onTheirWay := 0.0
		if known.HandedOut != nil {
			onTheirWay = askers * known.HandedOut(i)
		}
		c := candidate{index: i, key: m.Fill(onTheirWay)}
		c.standing = m.standing(c.key, known.Now)
		if len(best) == count && !c.before(&best[count-1], members) {
			continue // chance only moves it further back
		}
		if chance.state != 0 {
			c.key = m.Fill(onTheirWay + askers*chance.next())
		}
		best = insert(best, c, count, members)
	}
	ranked := make([]int, 0, len(best))
	for _, c := range best {
		if c.standing >= standingFull && best[0].standing < standingFull {
			break
		}
		ranked = append(ranked, c.index)
	}
	return ranked
}

// insert keeps the best count of them sorted.
func insert(best []candidate, c candidate, count int, members []Member) []candidate {
	at := len(best)
	for at > 0 && c.before(&best[at-1], members) {
		at--
	}
	switch {
	case len(best) < count:
		best = append(best, candidate{})
	case at == count:
		return best
	}
	copy(best[at+1:], best[at:])
	best[at] = c
	return best
}
