// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import "muster/fleet"

// verdict is the one byte that each side of a connection between members sends
// after the TLS handshake. The values are the wire: they never change.
type verdict byte

const (
	welcome      verdict = 0
	notMember    verdict = 1 // the one who says so has no certificate yet
	wrongCluster verdict = 2
	wrongCA      verdict = 3
	notValidNow  verdict = 4
	noIdentity   verdict = 5
	wrongNode    verdict = 6
	removed      verdict = 7
	noBroker     verdict = 8 // of the protocol for Kafka, as the next two
	brokerDown   verdict = 9
	tooMany      verdict = 10
)

// reason says why a connection or a question was refused; its values are the
// values of a metric's label.
type reason string

const (
	reasonHandshake    reason = "handshake"
	reasonProtocol     reason = "unknown_protocol"
	reasonBusy         reason = "too_many_handshakes"
	reasonNotServed    reason = "not_served"
	reasonNotMember    reason = "not_a_member"
	reasonWrongCluster reason = "wrong_cluster"
	reasonWrongCA      reason = "wrong_ca"
	reasonNotValidNow  reason = "certificate_not_valid_now"
	reasonNoIdentity   reason = "certificate_without_node"
	reasonWrongNode    reason = "wrong_node"
	reasonRemoved      reason = "removed_node"
	reasonNoBroker     reason = "no_broker"
	reasonBrokerDown   reason = "broker_down"
	reasonTooMany      reason = "too_many_connections"
	reasonSecret       reason = "wrong_secret"
	reasonThrottled    reason = "throttled"
	reasonFrame        reason = "bad_frame"
	reasonUnknown      reason = "unknown_verdict" // of a later release
)

func reasons() []reason {
	return []reason{
		reasonHandshake, reasonProtocol, reasonBusy, reasonNotServed, reasonNotMember, reasonWrongCluster, reasonWrongCA,
		reasonNotValidNow, reasonNoIdentity, reasonWrongNode, reasonRemoved,
		reasonNoBroker, reasonBrokerDown, reasonTooMany, reasonSecret, reasonThrottled, reasonFrame, reasonUnknown,
	}
}

func (v verdict) reason() reason {
	switch v {
	case notMember:
		return reasonNotMember
	case wrongCluster:
		return reasonWrongCluster
	case wrongCA:
		return reasonWrongCA
	case notValidNow:
		return reasonNotValidNow
	case noIdentity:
		return reasonNoIdentity
	case wrongNode:
		return reasonWrongNode
	case removed:
		return reasonRemoved
	case noBroker:
		return reasonNoBroker
	case brokerDown:
		return reasonBrokerDown
	case tooMany:
		return reasonTooMany
	default:
		return reasonUnknown
	}
}

// words complete "it refuses this node: ...".
func (v verdict) words() string {
	switch v {
	case notMember:
		return "it is not a member of a cluster yet"
	case wrongCluster:
		return "this node's certificate is of another cluster"
	case wrongCA:
		return "another CA signed this node's certificate"
	case notValidNow:
		return "this node's certificate is not valid by its clock: compare the clocks of both"
	case noIdentity:
		return "this node's certificate names no node"
	case wrongNode:
		return "it expected another node"
	case removed:
		return "this node was removed from the cluster"
	case noBroker:
		return "it has no embedded kafka; --kafka must name the same node on all of them"
	case brokerDown:
		return "its embedded kafka does not answer; see its log"
	case tooMany:
		return "too many connections with its embedded kafka are open"
	default:
		return "for a reason that this release does not know"
	}
}

// refusedError is one side's no during a handshake.
type refusedError struct {
	reason reason
	text   string
}

// Error says in words who refused whom and why.
func (e *refusedError) Error() string { return e.text }

// Unwrap makes it an absence: nothing was asked yet.
func (*refusedError) Unwrap() error { return fleet.ErrUnavailable }
