// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agents

import (
	"slices"
	"time"
)

// Stats is what the agents have done so far.
type Stats struct {
	Connected  int64  `json:"connected"`
	Failures   int64  `json:"failures"` // to connect
	Failure    string `json:"failure"`  // the last of them
	Ended      int64  `json:"ended"`    // streams, before their time
	Ending     string `json:"ending"`   // of the last of them
	Messages   int64  `json:"messages"`
	Records    int64  `json:"records"`
	Numbered   int64  `json:"numbered"` // of them
	Heartbeats int64  `json:"heartbeats"`
	Skipped    int64  `json:"skipped"` // records that a stock agent would have dropped
	Bytes      int64  `json:"bytes"`   // of messages, compressed

	Configured int64   `json:"configured"` // agents that were sent a config
	ConfigP50  float64 `json:"config_p50"` // seconds after the first heartbeat
	ConfigP99  float64 `json:"config_p99"`
	ConfigMax  float64 `json:"config_max"`

	Passed int64 `json:"passed"` // addresses of SD that did not work
	Exits  int64 `json:"exits"`  // of agents, after seven failures to connect
	// MostFailures to connect in a row, of any agent.
	MostFailures int64 `json:"most_failures"`

	ServedP50 float64 `json:"served_p50"` // seconds from the first try to connect to the first config
	ServedP99 float64 `json:"served_p99"`
	ServedMax float64 `json:"served_max"`

	Commands    int64 `json:"commands"`     // messages of the server
	LastCommand int64 `json:"last_command"` // when it came; Unix nanoseconds
}

// Stats counts.
func (a *Agents) Stats() Stats {
	c := &a.counters
	s := Stats{
		Connected: c.connected.Load(), Failures: c.failures.Load(), Ended: c.ended.Load(),
		Messages: c.messages.Load(), Records: c.records.Load(), Numbered: c.numbered.Load(),
		Heartbeats: c.heartbeats.Load(), Skipped: c.skipped.Load(), Bytes: c.bytes.Load(),
		Passed: c.passed.Load(), Exits: c.exits.Load(), MostFailures: c.mostFailures.Load(),
		Commands: c.commands.Load(), LastCommand: c.lastCommand.Load(),
	}
	a.mu.Lock()
	waits, served := slices.Clone(a.toConfig), slices.Clone(a.toServed)
	if a.failure != nil {
		s.Failure = a.failure.Error()
	}
	if a.ending != nil {
		s.Ending = a.ending.Error()
	}
	a.mu.Unlock()
	s.Configured = int64(len(waits))
	s.ConfigP50, s.ConfigP99, s.ConfigMax = quantiles(waits)
	s.ServedP50, s.ServedP99, s.ServedMax = quantiles(served)
	return s
}

// quantiles are in seconds; 0 where there is none.
func quantiles(times []time.Duration) (p50, p99, most float64) {
	n := len(times)
	if n == 0 {
		return 0, 0, 0
	}
	slices.Sort(times)
	at := func(i int) float64 { return max(times[i], time.Duration(0)).Seconds() }
	return at(n / 2), at(n * 99 / 100), at(n - 1)
}

// Plus sums up; times are the worst of both.
func (s Stats) Plus(o Stats) Stats {
	s.Connected += o.Connected
	s.Failures += o.Failures
	s.Ended += o.Ended
	s.Messages += o.Messages
	s.Records += o.Records
	s.Numbered += o.Numbered
	s.Heartbeats += o.Heartbeats
	s.Skipped += o.Skipped
	s.Bytes += o.Bytes
	s.Configured += o.Configured
	s.Commands += o.Commands
	s.Passed += o.Passed
	s.Exits += o.Exits
	s.LastCommand = max(s.LastCommand, o.LastCommand)
	if s.Failure == "" {
		s.Failure = o.Failure
	}
	if s.Ending == "" {
		s.Ending = o.Ending
	}
	s.MostFailures = max(s.MostFailures, o.MostFailures)
	s.ServedP50, s.ServedP99, s.ServedMax = max(s.ServedP50, o.ServedP50), max(s.ServedP99, o.ServedP99), max(s.ServedMax, o.ServedMax)
	s.ConfigP50, s.ConfigP99, s.ConfigMax = max(s.ConfigP50, o.ConfigP50), max(s.ConfigP99, o.ConfigP99), max(s.ConfigMax, o.ConfigMax)
	return s
}
