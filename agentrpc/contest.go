// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"math"
	"time"
)

// yields tells whether a session with the epoch held must end because of
// another node's claim. At equal epochs, which two nodes can make while they do
// not hear each other, neither does: both claims are refused, so both sessions
// are contested, and the one that still delivers takes the next epoch.
func yields(held, claimed uint64) bool { return claimed > held }

// contest is a session whose claim another node has refused.
type contest struct {
	held     uint64    // the highest epoch of the refusals
	messages uint64    // what the session had delivered when it sent its claim
	until    time.Time // when it ends, unless it delivers
}

// outlook is what decides a contest.
type outlook struct {
	delivered bool // a message has come since the claim was sent
	raised    bool // the session has won a contest before
	cloned    bool // several hosts use the agent's ID
	late      bool // it is over
}

type contestVerdict int

const (
	contestWaits contestVerdict = iota
	contestRaises
	contestEnds
)

// judge decides a contest. A refusal may come from a dead stream on a node whose
// clock is ahead, so a session that delivers takes a higher epoch, once: of two
// that both deliver, the other one is as good. A session that is silent may be
// the dead one and ends; if it is not, its agent comes again in seconds and gets
// an epoch above all that this node has heard. Of clones the newest stays.
func judge(c contest, o outlook) contestVerdict {
	switch {
	case o.cloned, o.raised, c.held == math.MaxUint64:
		return contestEnds
	case o.delivered:
		return contestRaises
	case o.late:
		return contestEnds
	}
	return contestWaits
}
