// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"muster/fleet"
)

// The headers that say how new the state must be, or was.
const (
	// HeaderIndex is in each answer to a write: the index of the replicated log
	// up to which the node that answers has applied everything.
	HeaderIndex = "X-Muster-Index"
	// HeaderMinIndex, in a request, has the node wait until it has applied that
	// index, so that a client reads its writes on any node.
	HeaderMinIndex = "X-Muster-Min-Index"
	// HeaderConsistency, in a request, is local or linearizable.
	HeaderConsistency = "X-Muster-Consistency"
)

// Limits of waiting.
const (
	maxIndexWait = 10 * time.Second
	// beyondWait is how long a node waits for an index before it asks the leader
	// whether the log goes so far at all.
	beyondWait = time.Second
	// retrySoon is what Retry-After says while a node starts or has no leader.
	retrySoon = 2 * time.Second
)

// special is an answer that no sentinel names. It matches the error of its outcome.
type special struct {
	outcome outcome
	detail  string
	retry   time.Duration // 0: nothing is said
	index   uint64        // of the log, 0: none
}

func (s *special) Error() string { return s.detail }
func (s *special) Unwrap() error { return s.outcome.err }

// notReady refuses what would read or write the replicated state.
func notReady(reason string) error {
	return &special{
		outcome: outcome{fleet.ErrUnavailable, 503, "not_ready", 503, elkeidUnavailable, ""},
		detail:  "this node cannot answer from its state now (try again, or another node): " + reason,
		retry:   retrySoon,
	}
}

// cannotTell refuses a credential that another node may know.
func cannotTell(what string) error {
	return &special{
		outcome: outcome{fleet.ErrUnavailable, 503, "unavailable", 503, elkeidUnavailable, ""},
		detail: "this node does not know the " + what + " and cannot tell now whether it is valid, because no leader " +
			"vouches for its state: try again, or another node",
		retry: retrySoon,
	}
}

// notYetVisible refuses to answer from a state that is older than was asked for.
func notYetVisible(want, applied, cluster uint64) error {
	detail := fmt.Sprintf("this node has applied index %d, %d was asked for: try again, or another node", applied, want)
	if cluster > 0 && want > cluster {
		detail = fmt.Sprintf("the cluster's log has come to index %d, %d was asked for: send the %s of an answer of this cluster",
			cluster, want, HeaderIndex)
	}
	return &special{
		outcome: outcome{fleet.ErrNotVisible, 504, "not_yet_visible", 504, elkeidTimeOut, ""},
		detail:  detail, index: want,
	}
}

// checkState holds a request up until the state is as new as it asks for, and
// refuses it while the state must not be read.
func (a *API) checkState(r *http.Request, route *Route) error {
	if route.Stateless {
		return nil
	}
	if reason := a.opts.Starting(); reason != "" {
		return notReady(reason)
	}
	text := r.Header.Get(HeaderMinIndex)
	if text == "" {
		return nil
	}
	index, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return fleet.Invalid(HeaderMinIndex, "%q is not an index: send the %s of an earlier answer", clip(text), HeaderIndex)
	}
	return a.waitIndex(r.Context(), index)
}

// applied is the index up to which this node has applied everything.
func (a *API) applied() uint64 { return a.opts.State.Status.Status().Applied }

// waitIndex waits until this node has applied the index. As a rule that takes
// milliseconds. If it does not, the leader is asked how far the log goes, so
// that an index which does not exist is refused at once.
func (a *API) waitIndex(ctx context.Context, index uint64) error {
	if index <= a.applied() {
		return nil
	}
	cluster := a.opts.Cluster
	if cluster == nil {
		return notYetVisible(index, a.applied(), a.applied())
	}
	ctx, cancel := context.WithTimeout(ctx, maxIndexWait)
	defer cancel()
	soon, stop := context.WithTimeout(ctx, beyondWait)
	err := cluster.WaitApplied(soon, index)
	stop()
	if err == nil {
		return nil
	}
	end, err := a.leader.index(ctx)
	if err == nil && index > end {
		return notYetVisible(index, a.applied(), end)
	}
	if err := cluster.WaitApplied(ctx, index); err != nil {
		return notYetVisible(index, a.applied(), 0)
	}
	return nil
}

// checkConsistency makes a read linearizable for those who ask for it: it sees
// every write that any node acknowledged before the request.
func (a *API) checkConsistency(r *http.Request, route *Route) error {
	want := r.Header.Get(HeaderConsistency)
	if route.Stateless || want == "" || want == "local" {
		return nil
	}
	if want != "linearizable" {
		return fleet.Invalid(HeaderConsistency, "%q is none of local, linearizable", clip(want))
	}
	cluster := a.opts.Cluster
	if cluster == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), maxIndexWait)
	defer cancel()
	index, err := cluster.ReadIndex(ctx)
	if err != nil {
		return fmt.Errorf("ask the leader how far the log is: %w", err)
	}
	if err := cluster.WaitApplied(ctx, index); err != nil {
		return notYetVisible(index, a.applied(), index)
	}
	return nil
}

// noteIndex has the answer to a write say how new this node's state is.
func (a *API) noteIndex(w *answer, r *http.Request, route *Route) {
	if route.Stateless || r.Method == http.MethodGet || r.Method == http.MethodHead {
		return
	}
	w.before = func() {
		if w.Header().Get(HeaderIndex) == "" {
			w.Header().Set(HeaderIndex, strconv.FormatUint(a.applied(), 10))
		}
	}
}
