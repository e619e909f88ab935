// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"muster/fleet"
	"muster/peerrpc/peerrpcpb"
)

// Enrol asks the member at an address for this node's first certificate, with a
// new key. Both prove that they know the cluster secret; the CA that the member
// names is the one to trust from then on. Errors match fleet.ErrUnauthenticated
// (another secret, on either side), fleet.ErrThrottled, fleet.ErrUnavailable
// (try again, there or elsewhere) or are a *fleet.Refusal that stands.
func (p *Port) Enrol(ctx context.Context, addr string) (*Membership, error) {
	key, public, err := newNodeKey()
	if err != nil {
		return nil, err
	}
	answer, err := p.ask(ctx, addr, &peerrpcpb.Ask{What: &peerrpcpb.Ask_Enrol{
		Enrol: &peerrpcpb.Enrol{ServerId: p.opts.ServerID, PublicKey: public},
	}})
	if err != nil {
		return nil, fmt.Errorf("enrol at %s: %w", addr, err)
	}
	m, err := membershipFrom(answer.GetCertificate(), p.opts.ServerID, key)
	if err != nil {
		return nil, fmt.Errorf("enrol at %s: its answer cannot be used: %w", addr, err)
	}
	return m, nil
}

// AskPromise asks the node with a server ID, at an address, to let the
// candidate found the cluster. It returns nil once the promise is on that
// node's disk, and a *fleet.Refusal with the other's reason when it is not
// given. Other errors, as those of Enrol, leave open whether it is.
func (p *Port) AskPromise(ctx context.Context, addr, serverID string, c Candidate) error {
	answer, err := p.ask(ctx, addr, &peerrpcpb.Ask{What: &peerrpcpb.Ask_Promise{
		Promise: &peerrpcpb.Promise{ServerId: c.ServerID, Expect: uint32(c.Expect), Asked: serverID},
	}})
	switch {
	case err != nil:
		return fmt.Errorf("ask %s at %s for a promise: %w", serverID, addr, err)
	case answer.GetPromised() == nil:
		return fmt.Errorf("ask %s at %s for a promise: it answered something else", serverID, addr)
	case !answer.GetPromised().GetGranted():
		return fleet.Refuse(fleet.CodeConflict, "%s", answer.GetPromised().GetWhy())
	}
	return nil
}

// ask has one conversation of muster-join/1. Its answer comes from a node that
// knows the secret.
func (p *Port) ask(ctx context.Context, addr string, ask *peerrpcpb.Ask) (*peerrpcpb.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.Tuning.CallTimeout)
	defer cancel()
	t, err := p.shake(ctx, addr, dialling(protoJoin, nil))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, fleet.ErrUnavailable)
	}
	defer func() { _ = t.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = t.NetConn().Close() })
	defer stop()
	proofs, err := newProofs(p.opts.JoinKey, t.ConnectionState())
	if err != nil {
		return nil, err
	}
	proofs.asking = newNonce()
	frame, err := exchange(t, &peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Hello{Hello: &peerrpcpb.Hello{Nonce: proofs.asking}}})
	if err != nil {
		return nil, err
	}
	if challenge := frame.GetChallenge(); challenge != nil {
		if err := checkNonce(challenge.GetNonce()); err != nil {
			return nil, err
		}
		proofs.answered = challenge.GetNonce()
		ask.Proof = proofs.of(roleAsking)
		if frame, err = exchange(t, &peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Ask{Ask: ask}}); err != nil {
			return nil, err
		}
	}
	answer := frame.GetAnswer()
	if answer == nil {
		return nil, errors.New("it answered with a frame that is not expected here")
	}
	return answer, judgeAnswer(answer, proofs)
}

// judgeAnswer believes nothing without a proof, but for the two refusals that
// come without one.
func judgeAnswer(answer *peerrpcpb.Answer, proofs *proofs) error {
	no := answer.GetRefused()
	switch no.GetReason() {
	case peerrpcpb.Reason_REASON_WRONG_SECRET:
		return fmt.Errorf("it has another cluster secret: give every node the same --cluster-secret or --cluster-secret-file: %w", fleet.ErrUnauthenticated)
	case peerrpcpb.Reason_REASON_THROTTLED:
		return fmt.Errorf("wrong secrets came from this address before: %w", fleet.ErrThrottled)
	case peerrpcpb.Reason_REASON_UNSPECIFIED, peerrpcpb.Reason_REASON_NOT_NOW, peerrpcpb.Reason_REASON_NEVER:
	}
	switch {
	case len(proofs.answered) == 0 || !proofs.verify(roleAnswering, answer.GetProof()):
		return fmt.Errorf("it could not prove that it knows the cluster secret, and nothing it said was taken: %w", fleet.ErrUnauthenticated)
	case no == nil:
		return nil
	case no.GetReason() == peerrpcpb.Reason_REASON_NEVER:
		return fleet.Refuse(fleet.CodeForbidden, "%s", no.GetWhy())
	}
	return fmt.Errorf("%s: %w", no.GetWhy(), fleet.ErrUnavailable)
}

func exchange(t io.ReadWriter, f *peerrpcpb.Frame) (*peerrpcpb.Frame, error) {
	if err := writeFrame(t, f); err != nil {
		return nil, fmt.Errorf("%w: %w", err, fleet.ErrUnavailable)
	}
	answer, err := readFrame(t)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, fleet.ErrUnavailable)
	}
	return answer, nil
}
