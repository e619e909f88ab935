// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"muster/fleet"
	"muster/peerrpc/peerrpcpb"
)

// NotLeaderError is returned by a node that does not lead: nothing was written.
// It matches fleet.ErrUnavailable.
type NotLeaderError struct {
	Leader string // server ID of the leader; empty: that node knows none
}

// Error names the leader.
func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "the node does not lead and knows no leader"
	}
	return fmt.Sprintf("the node does not lead, %s does", e.Leader)
}

// Unwrap returns fleet.ErrUnavailable.
func (*NotLeaderError) Unwrap() error { return fleet.ErrUnavailable }

// toStatus is the one table from a Handler's errors to gRPC. Members trust each
// other, so they see each other's words.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*NotLeaderError](err); ok {
		return detailed(codes.FailedPrecondition, err, &peerrpcpb.NotLeader{Leader: e.Leader})
	}
	if r, ok := errors.AsType[*fleet.Refusal](err); ok {
		return detailed(codes.InvalidArgument, err, &peerrpcpb.Refusal{Code: string(r.Code), Field: r.Field, Detail: r.Detail})
	}
	switch {
	case errors.Is(err, fleet.ErrUnavailable), errors.Is(err, fleet.ErrClosed):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, fleet.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	return status.Error(codes.Unknown, err.Error())
}

func detailed(code codes.Code, err error, detail protoadapt.MessageV1) error {
	s := status.New(code, err.Error())
	if with, err := s.WithDetails(detail); err == nil {
		s = with
	}
	return s.Err()
}

// fromStatus turns what a call returned back into what the Handler said, and
// names the outcome for the metric. An unreachable node is fleet.ErrUnavailable,
// a silent one fleet.ErrTimeout; in both cases it may have done what was asked.
func fromStatus(ctx context.Context, serverID string, err error) (outcome string, said error) {
	if err == nil {
		return outcomeOK, nil
	}
	s := status.Convert(err)
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *peerrpcpb.NotLeader:
			return outcomeNotLeader, fmt.Errorf("node %s: %w", serverID, &NotLeaderError{Leader: d.GetLeader()})
		case *peerrpcpb.Refusal:
			return outcomeRefused, &fleet.Refusal{Code: fleet.Code(d.GetCode()), Field: d.GetField(), Detail: d.GetDetail()}
		}
	}
	switch {
	case s.Code() == codes.Canceled && ctx.Err() != nil:
		return outcomeFailed, fmt.Errorf("node %s: %w", serverID, ctx.Err())
	case s.Code() == codes.DeadlineExceeded:
		return outcomeTimeout, fmt.Errorf("node %s: %w", serverID, fleet.ErrTimeout)
	case s.Code() == codes.Unavailable || s.Code() == codes.Canceled || s.Code() == codes.Unimplemented:
		return outcomeUnavailable, fmt.Errorf("node %s: %s: %w", serverID, s.Message(), fleet.ErrUnavailable)
	}
	return outcomeFailed, fmt.Errorf("node %s: %s", serverID, s.Message())
}
