// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"fmt"
	"time"
)

// pushRow changes the config of all agents of a process.
func pushRow(ctx context.Context, e *Env) ([]Figure, error) {
	b, err := e.broker()
	if err != nil {
		return nil, err
	}
	s, err := e.muster(ctx, b)
	if err != nil {
		return nil, err
	}
	l, err := e.load(s, loadOptions{agents: pushAgents, ramp: pushRamp})
	if err != nil {
		return nil, err
	}
	if err := l.connected(ctx, pushRamp+3*connectWithin); err != nil {
		return nil, err
	}
	if err := l.told(ctx, pushAgents); err != nil { // the first config
		return nil, err
	}
	push := Figure{Name: "change of the config of 15,000 agents", Unit: "s until the last has it", Reach: 3}
	each := Figure{Name: "the same", Unit: "µs CPU each", Info: true}
	for round := range e.opts.Rounds {
		if err := pause(ctx, warmUp); err != nil {
			return nil, err
		}
		before, err := l.stats()
		if err != nil {
			return nil, err
		}
		first, err := take(s, b)
		if err != nil {
			return nil, err
		}
		profiled := e.profileOf(ctx, fmt.Sprintf("push-%d", round+1), s, 5*time.Second)
		began := time.Now()
		if err := s.node.setConfig(ctx, fmt.Sprintf("1.7.0.%d", 100+round)); err != nil {
			return nil, err
		}
		if err := l.told(ctx, before.Commands+pushAgents); err != nil {
			return nil, err
		}
		last, err := take(s, b)
		profiled()
		if err != nil {
			return nil, err
		}
		after, err := l.stats()
		if err != nil {
			return nil, err
		}
		push.Muster = append(push.Muster, time.Unix(0, after.LastCommand).Sub(began).Seconds())
		each.Muster = append(each.Muster, (last.cpu-first.cpu)/pushAgents*1e6)
	}
	return []Figure{push, each}, nil
}

// told waits until the agents have got that many messages.
func (l *load) told(ctx context.Context, messages int64) error {
	return await(ctx, pushWithin, func() error {
		s, err := l.stats()
		if err != nil {
			return err
		}
		if s.Commands < messages {
			return notYet("%d of %d messages have come", s.Commands, messages)
		}
		return nil
	})
}
