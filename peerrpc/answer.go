// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"muster/fleet"
	"muster/internal/pki"
	"muster/peerrpc/peerrpcpb"
)

// answer serves one connection of muster-join/1, and closes it unless there is
// an error.
func (p *Port) answer(ctx context.Context, t *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, p.opts.Tuning.CallTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_ = t.SetDeadline(deadline)
	if err := p.converse(ctx, t); err != nil {
		return err
	}
	_ = t.Close() // the answer is on its way, nothing depends on its arrival
	return nil
}

// converse hears a question, whose answer it sends only to one who proved that
// it knows the secret. The asking side proves first: whoever merely connects
// gets nothing to guess the secret by.
func (p *Port) converse(ctx context.Context, t *tls.Conn) error {
	host := hostOf(t.RemoteAddr())
	proofs, err := newProofs(p.opts.JoinKey, t.ConnectionState())
	if err != nil {
		return err
	}
	hello, err := readFrame(t)
	if err == nil {
		err = checkNonce(hello.GetHello().GetNonce())
	}
	if err != nil {
		return &refusedError{reasonFrame, "joining: " + err.Error()}
	}
	if !p.throttle.take(host, time.Now()) {
		return p.turnDown(t, peerrpcpb.Reason_REASON_THROTTLED,
			&refusedError{reasonThrottled, "too many attempts to join with a wrong secret came from this address: it must wait some seconds"})
	}
	proofs.asking, proofs.answered = hello.GetHello().GetNonce(), newNonce()
	err = writeFrame(t, &peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Challenge{Challenge: &peerrpcpb.Challenge{Nonce: proofs.answered}}})
	if err != nil {
		return fmt.Errorf("joining: %w", err)
	}
	frame, err := readFrame(t)
	ask := frame.GetAsk()
	if err == nil && ask == nil {
		err = errors.New("not the frame that is expected here")
	}
	if err != nil {
		return &refusedError{reasonFrame, "joining: " + err.Error()}
	}
	if !proofs.verify(roleAsking, ask.GetProof()) {
		return p.turnDown(t, peerrpcpb.Reason_REASON_WRONG_SECRET,
			&refusedError{reasonSecret, "a node with another cluster secret wants to join: give every node the same --cluster-secret or --cluster-secret-file"})
	}
	p.throttle.giveBack(host)
	answer := p.fulfil(ctx, ask)
	answer.Proof = proofs.of(roleAnswering)
	if err := writeFrame(t, &peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Answer{Answer: answer}}); err != nil {
		return fmt.Errorf("joining: %w", err)
	}
	return nil
}

// turnDown tells the asking side why, without a proof, and returns err.
func (*Port) turnDown(t *tls.Conn, why peerrpcpb.Reason, err error) error {
	_ = writeFrame(t, &peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Answer{Answer: refused(why, "")}})
	return err
}

func refused(why peerrpcpb.Reason, text string) *peerrpcpb.Answer {
	return &peerrpcpb.Answer{What: &peerrpcpb.Answer_Refused{Refused: &peerrpcpb.Refused{Reason: why, Why: text}}}
}

// fulfil does what someone who knows the secret asks for.
func (p *Port) fulfil(ctx context.Context, ask *peerrpcpb.Ask) *peerrpcpb.Answer {
	switch what := ask.GetWhat().(type) {
	case *peerrpcpb.Ask_Enrol:
		return p.enrol(ctx, what.Enrol)
	case *peerrpcpb.Ask_Promise:
		return p.promise(ctx, what.Promise)
	default:
		return refused(peerrpcpb.Reason_REASON_NEVER, "this release does not know the question: upgrade this node first")
	}
}

func (p *Port) enrol(ctx context.Context, ask *peerrpcpb.Enrol) *peerrpcpb.Answer {
	id := ask.GetServerId()
	_, err := pki.NodeName(id)
	switch {
	case err != nil:
		err = fleet.Invalid("server_id", "%v", err)
	case id == p.opts.ServerID:
		err = fleet.Refuse(fleet.CodeConflict, "server ID %s is that of the node that was asked: two nodes run on copies of one data directory", id)
	case p.opts.Removed != nil && p.opts.Removed(id):
		err = fleet.Refuse(fleet.CodeForbidden, "server %s was removed from the cluster: move its data directory away and let it join as a new one", id)
	}
	var cert *peerrpcpb.Certificate
	if err == nil {
		cert, err = p.issue(ctx, askEnrolment, id, ask.GetPublicKey())
	}
	if err != nil {
		return refusal(err)
	}
	return &peerrpcpb.Answer{What: &peerrpcpb.Answer_Certificate{Certificate: cert}}
}

func (p *Port) promise(ctx context.Context, ask *peerrpcpb.Promise) *peerrpcpb.Answer {
	c := Candidate{ServerID: ask.GetServerId(), Expect: int(ask.GetExpect())}
	_, err := pki.NodeName(c.ServerID)
	switch {
	case err != nil:
		err = fleet.Invalid("server_id", "%v", err)
	case ask.GetAsked() != p.opts.ServerID:
		err = fleet.Refuse(fleet.CodeConflict, "%s was asked, but this is %s", ask.GetAsked(), p.opts.ServerID)
	default:
		err = p.opts.Promiser.Promise(ctx, c)
	}
	p.asked(askPromise, err)
	if no, ok := errors.AsType[*fleet.Refusal](err); ok {
		p.complaints.WarnOf("promise not given", "promise "+c.ServerID, "candidate", c.ServerID, "why", no.Error())
		return &peerrpcpb.Answer{What: &peerrpcpb.Answer_Promised{Promised: &peerrpcpb.Promised{Why: no.Error()}}}
	}
	if err != nil {
		p.opts.Logger.Error("promise could not be kept on disk", "candidate", c.ServerID, "error", err)
		return refusal(err)
	}
	p.opts.Logger.Info("promised that a node may found the cluster", "candidate", c.ServerID, "expect", c.Expect)
	return &peerrpcpb.Answer{What: &peerrpcpb.Answer_Promised{Promised: &peerrpcpb.Promised{Granted: true}}}
}

func refusal(err error) *peerrpcpb.Answer {
	if no, ok := errors.AsType[*fleet.Refusal](err); ok {
		return refused(peerrpcpb.Reason_REASON_NEVER, no.Error())
	}
	return refused(peerrpcpb.Reason_REASON_NOT_NOW, err.Error())
}
