// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"muster/fleet"
	"muster/internal/apiv1"
)

// eventType is what a client accepts that wants a stream of events, in the format
// of the HTML standard, "Server-sent events".
const eventType = "text/event-stream"

// Limits of event streams.
const (
	maxStreams = 64
	// streamPoll is how often a stream looks for news, so also the least time
	// between two events about the same thing.
	streamPoll = time.Second
	// streamBeat is how often a stream says that it is still there.
	streamBeat = 15 * time.Second
	// streamCheck is how often the reader's credential is looked at again.
	streamCheck = 30 * time.Second
	// streamWrite is how long one write may take: a reader that is slower is cut off.
	streamWrite = 5 * time.Second
	// streamRetry is when one that finds all streams taken may try again.
	streamRetry = 10 * time.Second
)

// Why a stream ended.
const (
	streamGone       = "gone"
	streamSlow       = "slow"
	streamCredential = "credential"
	streamNotReady   = "not_ready"
	streamStopping   = "stopping"
	streamFailed     = "failed"
)

// streams is what all event streams of a node share.
type streams struct {
	slots chan struct{} // maxStreams of them
	board nodeBoard
}

// wantsEvents tells whether the client accepts a stream.
func wantsEvents(r *http.Request) bool {
	for _, accept := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			if kind, _, err := mime.ParseMediaType(part); err == nil && kind == eventType {
				return true
			}
		}
	}
	return false
}

type stoppingKey struct{}

// withStopping is the context of a server's requests, which can see in it that the
// server's own has ended, but do not end with it.
func withStopping(server context.Context) context.Context {
	return context.WithValue(context.WithoutCancel(server), stoppingKey{}, server.Done())
}

// stopping is closed when the server that got the request stops; nil, which never
// is, in front of no server of Serve.
func stopping(r *http.Request) <-chan struct{} {
	done, _ := r.Context().Value(stoppingKey{}).(<-chan struct{})
	return done
}

// eventStream writes events to one reader. It belongs to one goroutine.
type eventStream struct {
	w   http.ResponseWriter
	ctl *http.ResponseController
	id  uint64
	out bytes.Buffer // not yet written
}

// event adds an event, with the next ID.
func (s *eventStream) event(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode an event: %w", err)
	}
	s.id++
	fmt.Fprintf(&s.out, "id: %d\nevent: %s\ndata: %s\n\n", s.id, name, data)
	return nil
}

// send writes what was added, within streamWrite.
func (s *eventStream) send() error {
	if s.out.Len() == 0 {
		return nil
	}
	defer s.out.Reset()
	s.deadline(time.Now().Add(streamWrite))
	if _, err := s.w.Write(s.out.Bytes()); err != nil {
		return err
	}
	if err := s.ctl.Flush(); err != nil {
		return err
	}
	s.deadline(time.Time{}) // HTTP/2 ends a stream at its deadline, written to or not
	return nil
}

// deadline bounds what is written from now on. All of net/http's servers can do
// that; what else is in front, in a test, need not.
func (s *eventStream) deadline(at time.Time) { _ = s.ctl.SetWriteDeadline(at) }

// serveEvents answers with a stream until the reader goes, or must go. news adds
// the events since it was called last; it is called each streamPoll, and its first
// call has been made already.
func (a *API) serveEvents(w http.ResponseWriter, r *http.Request, c *call, s *eventStream, news func(*eventStream) error) error {
	s.w, s.ctl = w, http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", eventType)
	h.Set("X-Accel-Buffering", "no") // or a proxy keeps events until it has many
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	select {
	case a.streams.slots <- struct{}{}:
		defer func() { <-a.streams.slots }()
	default:
		h.Del("X-Accel-Buffering")
		return &special{
			outcome: outcome{fleet.ErrThrottled, http.StatusTooManyRequests, "throttled", 429, elkeidExceedLimit, ""},
			detail:  fmt.Sprintf("%d event streams are open on this node, more it does not serve: end one, ask another node, or ask for the list from time to time", maxStreams),
			retry:   streamRetry,
		}
	}
	a.metrics.streams.Inc()
	defer a.metrics.streams.Dec()
	reason := a.pump(r, c, s, news)
	s.deadline(time.Now().Add(streamWrite)) // for what net/http has yet to write
	a.metrics.ended.WithLabelValues(reason).Inc()
	level := a.log.Debug
	if reason == streamSlow || reason == streamFailed {
		level = a.log.Warn
	}
	level("an event stream has ended", "path", c.route.Path, "reason", reason, "by", c.caller.name(), "from", sourceKey(r), "events", s.id)
	return nil
}

// pump writes the stream and returns why it ended.
func (a *API) pump(r *http.Request, c *call, s *eventStream, news func(*eventStream) error) string {
	tick := time.NewTicker(streamPoll)
	defer tick.Stop()
	beat, check := time.Now(), time.Now()
	for {
		begun := time.Now()
		if err := s.send(); err != nil {
			if time.Since(begun) >= streamWrite {
				return streamSlow
			}
			return streamGone
		}
		now := begun
		select {
		case <-r.Context().Done():
			return streamGone
		case <-stopping(r):
			return s.end(streamStopping, "this node stops: ask another one, or try again")
		case now = <-tick.C:
		}
		if now.Sub(check) >= streamCheck {
			check = now
			if reason, detail := a.mustEnd(r, c); reason != "" {
				return s.end(reason, detail)
			}
		}
		if err := news(s); err != nil {
			a.log.Error("an event stream has failed", "path", c.route.Path, "error", err)
			return s.end(streamFailed, internalOutcome.hint)
		}
		if now.Sub(beat) >= streamBeat {
			beat = now
			s.out.WriteString(": still here\n\n")
		}
	}
}

// end says why the stream ends, and returns reason.
func (s *eventStream) end(reason, detail string) string {
	if s.event("end", apiv1.StreamEnd{Detail: detail}) == nil {
		_ = s.send() // it ends in any case
	}
	return reason
}

// mustEnd says why the stream must end, if it must: because the request would be
// refused by now.
func (a *API) mustEnd(r *http.Request, c *call) (reason, detail string) {
	if why := a.opts.Starting(); why != "" {
		return streamNotReady, notReady(why).Error()
	}
	if _, err := a.authenticate(r, c.route.Access); err != nil {
		detail, _ = outcomeOf(err).words(err)
		return streamCredential, detail
	}
	return "", ""
}
