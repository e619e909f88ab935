// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"muster/fleet"
)

const (
	// checkInterval is how often the pusher looks whether what could not be
	// pushed before can be now.
	checkInterval = time.Second
	// taskInterval is how often sessions with tasks are woken without a change:
	// tasks that are sent again become due by time alone.
	taskInterval = 5 * time.Second
	// walkPause is the least time between two walks over all sessions, so that
	// many small changes do not take a processor.
	walkPause = 50 * time.Millisecond
	// restAfterWalk times as long as a walk for tasks took, none follows: with
	// many tasks and sessions it may take long.
	restAfterWalk = 4
)

// pusher makes senders for the sessions for which something may be due.
type pusher struct {
	server *Server
	// owed is set when a sender had something to do while this node was not
	// current, or could not do it.
	owed chan struct{} // of one

	mu     sync.Mutex
	comers []comer // each session once, in the order in which they came
}

// comer is a session that waits until this node's state has all that was known at
// a moment.
type comer struct {
	sess  *session
	since time.Time
}

func newPusher(s *Server) *pusher { return &pusher{server: s, owed: make(chan struct{}, 1)} }

// owe makes the pusher wake every session when the node is current again.
func (p *pusher) owe() {
	select {
	case p.owed <- struct{}{}:
	default:
	}
}

// greet has a session served as soon as this node's state has all that was known
// at a moment.
func (p *pusher) greet(sess *session, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !sess.out.waits {
		sess.out.waits = true
		p.comers = append(p.comers, comer{sess, since})
	}
}

// welcome wakes those for whom that is so. While this node is not current it owes
// something to all of them.
func (p *pusher) welcome() {
	p.mu.Lock()
	defer p.mu.Unlock()
	owe := len(p.comers) > 0 && !p.server.opts.Desired.Current()
	n := 0
	for ; n < len(p.comers); n++ {
		c := p.comers[n]
		if !owe && !p.server.opts.Desired.CurrentSince(c.since) {
			break // those behind it came no sooner, or wait a moment more
		}
		c.sess.out.waits = false
		if !owe {
			p.server.nudge(c.sess)
		}
	}
	p.comers = slices.Delete(p.comers, 0, n)
	if owe {
		p.owe()
	}
}

func (p *pusher) run(ctx context.Context) error {
	desired, stopDesired := p.server.opts.Desired.Watch(fleet.TableDesired)
	defer stopDesired()
	tasks, stopTasks := p.server.opts.Desired.Watch(fleet.TableTasks)
	defer stopTasks()
	// Both are compared with the clock, not ticked: nobody blocks on them.
	start := time.Now()
	check, again := start.Add(checkInterval), start.Add(taskInterval)
	var rested time.Time // when the next walk for tasks may begin
	var due []*session   // sessions whose config is to be pushed, in no order
	pace := time.NewTicker(walkPause)
	defer pace.Stop()
	perTick := max(p.server.opts.Tuning.PushesPerSecond*int(walkPause/time.Millisecond)/1000, 1)
	for {
		// One walk per tick at most: changes meanwhile are one change.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pace.C:
		}
		p.welcome()
		select {
		case <-desired:
			due = p.refresh()
		default:
		}
		if now := time.Now(); !now.Before(rested) {
			select {
			case <-tasks:
				p.wakeForTasks()
			default:
				if !now.Before(again) {
					again = now.Add(taskInterval)
					p.wakeForTasks()
				}
			}
			rested = time.Now().Add(restAfterWalk * time.Since(now))
		}
		if now := time.Now(); !now.Before(check) {
			check = now.Add(checkInterval)
			if p.settle() {
				due = p.server.registry.all()
			}
		}
		n := min(perTick, len(due))
		for _, sess := range due[:n] {
			p.server.nudge(sess)
		}
		due = due[n:]
	}
}

// refresh gives every session its tags, and returns those that lack the
// present config.
func (p *pusher) refresh() []*session {
	var due []*session
	for _, sess := range p.server.registry.all() {
		d, err := p.server.desired(sess, sess.id)
		if err != nil {
			p.server.logs.Warn("state cannot be read: config not pushed", "error", err)
			p.owe()
			continue
		}
		if len(d.Config) > 0 && d.Revision > sess.written.Load() {
			due = append(due, sess)
		}
	}
	return due
}

// wakeForTasks wakes the sessions that have tasks.
func (p *pusher) wakeForTasks() {
	for _, id := range p.server.opts.Tasks.Due(p.server.SessionIDs()) {
		if sess := p.server.registry.get(id); sess != nil {
			p.server.nudge(sess)
		}
	}
}

// settle tells whether something is owed and can be done now.
func (p *pusher) settle() bool {
	if len(p.owed) == 0 || !p.server.opts.Desired.Current() {
		return false
	}
	<-p.owed
	return true
}

// serve is the sender's one step: it writes what the agent should have and has
// not got. It sends no command while this node's state may be old. It does not wait
// for a heartbeat: an agent that comes from another node sends its next one up to a
// minute later.
func (s *Server) serve(sess *session) error {
	if !sess.out.greeted {
		// Until it sees headers, a client keeps what it sends, to be able to send
		// it again on another stream.
		if err := sess.stream.SendHeader(nil); err != nil {
			return err
		}
		sess.out.greeted = true
	}
	if !s.opts.Desired.CurrentSince(sess.out.since) {
		s.parts.pusher.greet(sess, sess.out.since)
		return nil
	}
	sess.out.since = time.Time{}
	if err := s.pushConfig(sess); err != nil {
		return err
	}
	return s.sendTasks(sess)
}

// desired reads what the agent should have, and gives the session its tags.
func (s *Server) desired(sess *session, id string) (fleet.Desired, error) {
	for {
		before := sess.tags.Load()
		d, err := s.opts.Desired.Desired(id)
		if err != nil {
			return fleet.Desired{}, err
		}
		// Another goroutine that set the tags meanwhile may have read an older
		// state or a newer one: read again.
		encoded := encodeTags(d.Tags)
		if sess.tags.CompareAndSwap(before, &encoded) {
			return d, nil
		}
	}
}

// pushConfig writes the desired config unless it was written already. An empty
// config is never written (it would delete every plugin), nor is an older one
// after a newer.
func (s *Server) pushConfig(sess *session) error {
	d, err := s.desired(sess, sess.id)
	if err != nil {
		s.logs.Warn("state cannot be read: config not pushed", "error", err)
		s.parts.pusher.owe()
		return nil
	}
	if len(d.Config) == 0 || d.Revision <= sess.written.Load() {
		return nil
	}
	command, err := encodeCommand(fleet.AgentCommand{Config: d.Config})
	if err != nil {
		s.metrics.pushFailures.Inc()
		s.logs.Warn("config cannot be encoded", "agent_id", sess.id, "revision", d.Revision, "error", err)
		return nil
	}
	if err := s.send(sess, command); err != nil {
		return err
	}
	sess.written.Store(d.Revision)
	s.metrics.pushes.Inc()
	return nil
}

// send writes a command to the stream. An agent that does not read for
// SendTimeout loses its connection: only that ends a blocked write.
func (s *Server) send(sess *session, command []byte) error {
	timer := time.AfterFunc(s.opts.Tuning.SendTimeout, func() { _ = sess.peer.conn.raw.Close() })
	err := sess.stream.SendMsg(command)
	if timer.Stop() && err == nil {
		return nil
	}
	s.metrics.pushFailures.Inc()
	if err == nil { // the write ended together with the deadline
		return status.Error(codes.DeadlineExceeded, "the agent does not read")
	}
	return err
}
