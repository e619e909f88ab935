// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"strconv"
	"strings"
)

// Limits of tasks.
const (
	// DefaultTaskSeconds is the time from run to deadline of a task that names none.
	DefaultTaskSeconds = 24 * 3600
	// MaxTaskSeconds is the longest time that a task may name.
	MaxTaskSeconds = 30 * 24 * 3600
	// RetrySeconds is the wait before a task of DeliveryRetry is sent again.
	RetrySeconds = 60
	// MaxResultBytes is the longest text of a result that is kept; more is cut.
	MaxResultBytes = 4 << 10
	// MaxConcurrence is the largest bound of sends at once. Source: Elkeid.
	MaxConcurrence = 999
)

// TaskKind tells what a task carries.
type TaskKind string

// The kinds of tasks.
const (
	// TaskKindTask sends Command.Task.
	TaskKindTask TaskKind = "task"
	// TaskKindConfig stores Command.Config as the targets' own desired config.
	TaskKindConfig TaskKind = "config"
	// TaskKindCommand sends Command as it stands, once; for POST /command/.
	TaskKindCommand TaskKind = "command"
)

// Delivery tells what may happen when no answer comes.
type Delivery string

// The ways of delivery.
const (
	// DeliveryOnce never sends twice: the sent mark is committed before the
	// command is written. Without an answer the sub-task ends unknown.
	DeliveryOnce Delivery = "once"
	// DeliveryRetry sends again RetrySeconds after a send without an answer,
	// until the deadline, so an agent may carry the task out twice.
	DeliveryRetry Delivery = "retry"
)

// TaskStatus is the state of a task as a whole. The words are Elkeid's.
type TaskStatus string

// The states of a task.
const (
	TaskCreated   TaskStatus = "created"   // stored, not running
	TaskRunning   TaskStatus = "running"   // some released target has not ended
	TaskFinished  TaskStatus = "finished"  // every released target has ended
	TaskCancelled TaskStatus = "cancelled" // nothing is sent any more
)

// SubTaskState is the state of one agent's part of a task.
type SubTaskState string

// The states of a sub-task, in the only order that they can follow each other:
// waiting, pending, sent, then one of the others, which all are ends.
const (
	SubTaskWaiting   SubTaskState = "waiting"   // a target, not yet released by a run
	SubTaskPending   SubTaskState = "pending"   // released, not yet sent
	SubTaskSent      SubTaskState = "sent"      // sent mark committed, no answer yet
	SubTaskSucceeded SubTaskState = "succeeded" // answered well, or written when no answer is expected
	SubTaskFailed    SubTaskState = "failed"    // answered badly, or refused before it was sent
	SubTaskUnknown   SubTaskState = "unknown"   // sent, and the deadline passed without an answer
	SubTaskExpired   SubTaskState = "expired"   // the deadline passed before it could be sent
	SubTaskCancelled SubTaskState = "cancelled" // the task was cancelled before it was sent
)

// Ended tells whether the state can still change.
func (s SubTaskState) Ended() bool {
	switch s {
	case SubTaskWaiting, SubTaskPending, SubTaskSent:
		return false
	case SubTaskSucceeded, SubTaskFailed, SubTaskUnknown, SubTaskExpired, SubTaskCancelled:
		return true
	}
	return true
}

// NewTask is what a caller says of a task; the store adds the rest.
type NewTask struct {
	// ID is made by the proposer; see TaskToken for the bytes it may hold.
	ID       string       `json:"task_id"`
	Name     string       `json:"task_name"`
	Action   string       `json:"action"`
	Kind     TaskKind     `json:"kind"`
	Command  AgentCommand `json:"command"`
	Creator  string       `json:"task_user"`
	Tag      string       `json:"tag,omitempty"` // the tag that chose the targets, for display
	Delivery Delivery     `json:"delivery"`
	// Seconds is the time from the first run to the deadline; 0 means DefaultTaskSeconds.
	Seconds int64 `json:"seconds"`
	// Run releases every target at once, in the same log entry.
	Run bool `json:"run"`
	// KeepResults keeps the text of good results too; that of failures is always kept.
	KeepResults bool `json:"keep_results"`
}

// Check refuses a task that could not be carried out.
func (t NewTask) Check() error {
	if t.ID == "" || strings.ContainsAny(t.ID, ". \t\n") || len(t.ID) > 64 {
		return Invalid("task_id", "%q must be 1 to 64 bytes without dots and spaces", t.ID)
	}
	if t.Seconds < 0 || t.Seconds > MaxTaskSeconds {
		return Invalid("seconds", "%d is not between 0 and %d", t.Seconds, MaxTaskSeconds)
	}
	switch t.Kind {
	case TaskKindTask:
		if t.Command.Task == nil {
			return Invalid("command.task", "is missing")
		}
	case TaskKindConfig:
		if err := CheckConfig(t.Command.Config); err != nil {
			return err
		}
	case TaskKindCommand:
	default:
		return Invalid("kind", "%q is none of task, config, command", t.Kind)
	}
	if t.Delivery != DeliveryOnce && t.Delivery != DeliveryRetry {
		return Invalid("delivery", "%q is none of once, retry", t.Delivery)
	}
	return t.Command.Check()
}

// TaskCounts counts a task's targets by state.
type TaskCounts struct {
	Total     int `json:"total"`
	Waiting   int `json:"waiting"`
	Pending   int `json:"pending"`
	Sent      int `json:"sent"`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
	Unknown   int `json:"unknown"`
	Expired   int `json:"expired"`
	Cancelled int `json:"cancelled"`
}

// Task is a stored task.
type Task struct {
	NewTask
	Status TaskStatus `json:"task_status"`
	JobID  string     `json:"job_id,omitempty"` // of the last run
	// RollingPercent (0,1] and Concurrence (1..MaxConcurrence) are those of the last run.
	RollingPercent float64 `json:"rolling_percent"`
	Concurrence    int     `json:"concurrence"`
	// CreatedAt, UpdatedAt, Deadline and EndedAt are in Unix seconds of the
	// log's time; Deadline and EndedAt are 0 until there is one.
	CreatedAt int64      `json:"created_at"`
	UpdatedAt int64      `json:"updated_at"`
	Deadline  int64      `json:"deadline"`
	EndedAt   int64      `json:"ended_at"`
	Counts    TaskCounts `json:"counts"`
}

// SubTask is one agent's part of a task.
type SubTask struct {
	TaskID  string       `json:"task_id"`
	AgentID string       `json:"agent_id"`
	Number  uint32       `json:"number"`
	Token   string       `json:"token"`
	State   SubTaskState `json:"state"`
	// Result is what is kept of the answer; nil if nothing is.
	Result *TaskResult `json:"result,omitempty"`
}

// Dispatch is a command that the node holding the agent's stream should send.
type Dispatch struct {
	TaskID  string
	AgentID string
	Number  uint32
	// Kind TaskKindConfig is sent by the desired config reaching Revision, not
	// by itself; the node reports it as succeeded then.
	Kind     TaskKind
	Revision uint64
	// Command is shared and must not be changed. Its task's token is set.
	Command  AgentCommand
	Delivery Delivery
	Deadline int64 // Unix seconds
	// Sent is true when the sent mark stands (DeliveryRetry, or TaskKindConfig).
	Sent bool
}

// TaskMark names one agent's part of a task in a proposal.
type TaskMark struct {
	TaskID string `json:"t"`
	Number uint32 `json:"n"`
}

// TaskResult is the outcome of a sub-task.
type TaskResult struct {
	// Token, with AgentID, names the sub-task. An answer with the token of
	// another agent's sub-task is refused.
	Token   string `json:"token"`
	AgentID string `json:"agent_id"`
	// State is SubTaskSucceeded, SubTaskFailed, or "" when only the text is new
	// (DataTypeVerification).
	State    SubTaskState `json:"state"`
	DataType DataType     `json:"data_type"` // of the record that answered; 0: this node says so itself
	Status   string       `json:"status"`    // as the agent wrote it
	Message  string       `json:"msg"`
	At       int64        `json:"at"` // Unix seconds
}

// TaskToken makes the token under which an agent answers a task.
func TaskToken(taskID string, number uint32) string {
	return taskID + "." + strconv.FormatUint(uint64(number), 36)
}

// ParseTaskToken takes a token of TaskToken apart; ok is false for any other text.
func ParseTaskToken(token string) (taskID string, number uint32, ok bool) {
	i := strings.LastIndexByte(token, '.')
	if i <= 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(token[i+1:], 36, 32)
	if err != nil || n == 0 || TaskToken(token[:i], uint32(n)) != token {
		return "", 0, false
	}
	return token[:i], uint32(n), true
}
