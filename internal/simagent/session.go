// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"muster/internal/agentpb"
)

const (
	// sendInterval is a stock agent's: at each tick the buffer is sent.
	sendInterval = 100 * time.Millisecond
	// closeWait is how long a finished agent waits for the server to end the
	// stream: long enough for a server that is slowed by what is behind it, as what
	// it has not read when the agent leaves is lost.
	closeWait = 30 * time.Second
	// stopWait is the same when Run was told to stop.
	stopWait = time.Second
)

// batch is the memory of one message, reused by all agents of a fleet.
type batch struct {
	entries []entry
	records []*agentpb.Record
	bodies  []byte
}

// session is one Transfer stream, from its opening to its end.
type session struct {
	*agent
	stream   agentpb.Transfer_TransferClient
	cancel   context.CancelFunc
	opened   time.Time
	received chan struct{} // closed when nothing more comes from the server
	clean    bool          // the server ended the stream well; read after received
}

// session opens a stream and serves it until it ends.
func (a *agent) session(ctx context.Context, conn *grpc.ClientConn) ending {
	// The stream outlives ctx for a moment, so that a stop loses nothing.
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if sleep(streamCtx, stopWait) {
			cancel()
		}
	})
	defer stop()
	stream, err := agentpb.NewTransferClient(conn).Transfer(streamCtx, a.fleet.callOptions...)
	if err != nil {
		a.log.Info("no stream", "error", err)
		return endStream
	}
	a.fleet.counters.streams.Add(1)
	if a.streams++; a.streams > 1 {
		a.fleet.counters.reconnects.Add(1)
	}
	a.fleet.counters.connected.Add(1)
	defer a.fleet.counters.connected.Add(-1)
	s := &session{agent: a, stream: stream, cancel: cancel, opened: time.Now(), received: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(s.received)
		s.receive(ctx, conn)
	})
	end := s.serve(ctx)
	cancel()
	wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.process.exiting {
		return endExit
	}
	return end
}

// serve sends at each tick that has something to send.
func (s *session) serve(ctx context.Context) ending {
	timer := time.NewTimer(sendInterval)
	defer timer.Stop()
	for {
		select {
		case <-s.received:
			return endStream
		case <-ctx.Done():
			s.send(time.Now())
			return s.finish(stopWait, endStopped)
		case <-s.wake:
			timer.Reset(s.untilTick(time.Now()))
		case <-timer.C:
			if !s.send(time.Now()) {
				<-s.received // Send failed because the stream has ended
				return endStream
			}
			if s.finished(time.Now()) {
				return s.finish(closeWait, endFinished)
			}
			timer.Reset(s.untilTick(time.Now()))
		}
	}
}

// untilTick is the time until the next tick, each 100 ms from the opening on, at
// which there is something to send.
func (s *session) untilTick(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := s.process.nextBeat
	if next, ok := s.source.next(now); ok && next.Before(due) {
		due = next
	}
	if len(s.buffer.entries) > 0 || due.Before(now) {
		due = now
	}
	ticks := due.Sub(s.opened) / sendInterval
	if tick := s.opened.Add(ticks * sendInterval); tick.Before(due) || !tick.After(now) {
		ticks++
	}
	return s.opened.Add(ticks * sendInterval).Sub(now)
}

// finished reports whether nothing more will come up and nothing is left.
func (s *session) finished(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.source.over(now) && len(s.buffer.entries) == 0 && !s.process.uploading
}

// finish closes the agent's side and waits for the server to end the stream,
// which says that it has read everything.
func (s *session) finish(wait time.Duration, end ending) ending {
	clean := false
	if s.stream.CloseSend() == nil {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-s.received:
			clean = s.clean
		case <-timer.C:
		}
	}
	if !clean {
		s.fleet.counters.unclean.Add(1)
	}
	return end
}

// send empties the buffer into messages. It reports false when the stream has
// ended; what was taken from the buffer for that message is lost, as with a stock
// agent.
func (s *session) send(now time.Time) bool {
	b := s.fleet.batches.Get().(*batch)
	defer s.fleet.recycle(b)
	s.mu.Lock()
	s.advance(now)
	s.produce(now, s.source.fill(now, s.buffer.free()))
	b.entries = s.buffer.take(b.entries[:0])
	version := s.version
	s.mu.Unlock()
	limit := len(b.entries)
	if n := s.fleet.opts.Load.Batch; n > 0 {
		limit = n
	}
	for entries := b.entries; len(entries) > 0; {
		part := entries[:min(limit, len(entries))]
		entries = entries[len(part):]
		if err := s.sendOne(b, part, version); err != nil {
			s.fleet.counters.failed.Add(int64(len(part) + len(entries)))
			s.log.Info("send failed", "error", err)
			if !errors.Is(err, io.EOF) {
				s.cancel()
			}
			return false
		}
	}
	return true
}

// sendOne sends one message, numbering its data records.
func (s *session) sendOne(b *batch, entries []entry, version string) error {
	for len(b.records) < len(entries) {
		b.records = append(b.records, &agentpb.Record{})
	}
	s.mu.Lock()
	seq := s.sent
	s.mu.Unlock()
	first := seq
	b.bodies = b.bodies[:0]
	for i, e := range entries {
		r := b.records[i]
		r.DataType, r.Timestamp, r.Body = e.dataType, e.timestamp, e.body
		if e.body == nil {
			seq++
			from := len(b.bodies)
			b.bodies = s.fleet.templates.appendExecve(b.bodies, seq, e.timestamp)
			r.Body = b.bodies[from:len(b.bodies):len(b.bodies)]
		}
	}
	err := s.stream.Send(&agentpb.RawData{
		Records: b.records[:len(entries)], AgentId: s.id, IntranetIpv4: []string{s.ipv4},
		Hostname: s.hostname, Version: version, Product: Product,
	})
	data := int(seq - first)
	s.mu.Lock()
	s.sent = seq
	s.process.tx += len(entries)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.fleet.counters.messages.Add(1)
	s.fleet.counters.sent.Add(int64(data))
	s.fleet.counters.others.Add(int64(len(entries) - data))
	return nil
}

// recycle keeps a batch's memory but none of its contents.
func (f *Fleet) recycle(b *batch) {
	clear(b.entries)
	for _, r := range b.records {
		r.Body = nil
	}
	f.batches.Put(b)
}
