// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"fmt"
	"time"
)

// hangingDisk is how long one request to the disk may take before the disk counts as
// hanging. Nothing can be done about the request: a goroutine stays in it until the
// disk answers.
const hangingDisk = 5 * time.Second

// work is something that is done with a file.
type work struct {
	path  string
	began time.Time
}

// begin notes that something is done with a file, until done is called.
func (s *spools) begin(path string) (done func()) {
	w := &work{path: path, began: time.Now()}
	s.mu.Lock()
	s.works[w] = true
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		delete(s.works, w)
		s.mu.Unlock()
	}
}

// slowest returns what was begun first and is not done; its time is zero if there is
// nothing. It needs the lock.
func (s *spools) slowest() (slowest work) {
	for w := range s.works {
		if slowest.began.IsZero() || w.began.Before(slowest.began) {
			slowest = *w
		}
	}
	return slowest
}

// watch looks whether the disk answers, says so when that changes, and returns what
// hangs, "" if nothing does.
func (s *spools) watch(now time.Time) (hang string) {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	was, w := s.hang, s.slowest()
	s.hang = ""
	if !w.began.IsZero() && now.Sub(w.began) > hangingDisk {
		s.hang = fmt.Sprintf("%s since %s", w.path, w.began.UTC().Format(time.RFC3339))
	}
	hang = s.hang
	s.mu.Unlock()
	switch {
	case was == "" && hang != "":
		s.logger.Warn("the disk of the spool does not answer: records that are on it wait, others go to kafka if it takes them",
			"file", w.path, "began", w.began, "dir", s.dir)
	case was != "" && hang == "":
		s.logger.Info("the disk of the spool answers again")
	}
	return hang
}

// waits returns for how long the slowest request to the disk has been waited for.
func (s *spools) waits(now time.Time) time.Duration {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.slowest(); !w.began.IsZero() {
		return max(0, now.Sub(w.began))
	}
	return 0
}

// leaveHangingDisk takes back what the writer has in hand while the disk hangs, if
// Kafka takes records again and nothing older is on disk: the sender waits for the
// batch in flight, or for the writer alone. Then the partition sends directly. The
// writer removes the spool when the disk lets it; a crash before that may leave
// records on disk that are in Kafka as well.
func (p *partition) leaveHangingDisk(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.spool; s != nil && !p.retired && (p.flight.awaited || p.hold) && len(p.inHand) > 0 && s.hangs(now) && !s.unread() {
		p.giveBack(p.handBack(false)...)
		p.spooling = spooling{}
		notify(p.wake)
	}
}

// giveUpDisk takes back what the writer has in hand when the Log ends. What is on disk
// stays there.
func (p *partition) giveUpDisk() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.spool; s != nil && len(p.inHand) > 0 && s.hangs(time.Now()) {
		p.giveBack(p.handBack(false)...)
	}
}
