// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"muster/fleet"
)

// createTask stores a task: with all its targets, or, when they do not fit into
// one entry, as a part that addTargets and sealTask complete.
type createTask struct {
	Task    fleet.NewTask `json:"task"`
	Targets []string      `json:"targets,omitempty"`
	Part    bool          `json:"part,omitempty"`
}

func (*createTask) kind() string { return "task.create" }

func (t *createTask) decide(c *change) (any, error) {
	id := t.Task.ID
	if c.get(bucketTasks, []byte(id)) != nil {
		return nil, fleet.Refuse(fleet.CodeExists, "task %q exists already", id)
	}
	if err := c.makeRoomForTask(); err != nil {
		return nil, err
	}
	n := loadCounters(c)
	n.Tasks++
	c.setCounters(n)
	cmd := t.Task.Command
	t.Task.Command = fleet.AgentCommand{}
	c.store(bucketTaskCommands, id, cmd)
	d := &draft{c: c, sets: make(map[chunkID]*roaring.Bitmap), rec: storedTask{
		Task: fleet.Task{NewTask: t.Task, Status: fleet.TaskCreated, CreatedAt: c.now},
		// A part has no targets yet, so even an empty one must not end.
		Building: true,
	}}
	if err := d.addTargets(t.Targets); err != nil {
		return nil, err
	}
	if !t.Part {
		if err := d.seal(cmd); err != nil {
			return nil, err
		}
	}
	d.save()
	return nil, nil
}

// makeRoomForTask forgets the task that ended first when there are too many.
func (c *change) makeRoomForTask() error {
	if loadCounters(c).Tasks < maxTasks {
		return nil
	}
	first := ""
	c.scan(bucketTaskEnded, nil, func(k, _ []byte) bool {
		_, first = splitTimeKey(k)
		return false
	})
	if first == "" {
		return fleet.Refuse(fleet.CodeTooLarge, "%d tasks have not ended: cancel some first", maxTasks)
	}
	c.forgetTask(first)
	return nil
}

// addTargets refuses unknown agents, naming up to three.
func (d *draft) addTargets(ids []string) error {
	var unknown []string
	for _, id := range ids {
		n := agentNumber(d.c, id)
		if n == 0 {
			unknown = append(unknown, id)
			continue
		}
		d.addTarget(n)
	}
	return unknownAgents(unknown)
}

func unknownAgents(ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	named := strings.Join(ids[:min(3, len(ids))], ", ")
	if more := len(ids) - 3; more > 0 {
		return fleet.Refuse(fleet.CodeNotFound, "unknown agents: %s and %d more", named, more)
	}
	return fleet.Refuse(fleet.CodeNotFound, "unknown agents: %s", named)
}

// seal makes the task visible, claims its caller's token and runs it if that
// was asked for.
func (d *draft) seal(cmd fleet.AgentCommand) error {
	t := &d.rec.Task
	d.rec.Building = false
	if t.Counts.Total == 0 {
		return fleet.Invalid("id_list", "is empty: a task needs at least one agent")
	}
	if cmd.Task != nil && cmd.Task.Token != "" {
		if err := d.claimToken(cmd.Task.Token); err != nil {
			return err
		}
	}
	d.c.touch(fleet.TableTasks)
	if !t.Run {
		return nil
	}
	t.RollingPercent, t.Concurrence = 1, fleet.MaxConcurrence
	d.release(cmd, t.Counts.Total)
	return nil
}

// taskToken is the value of bucketTaskTokens.
type taskToken struct {
	Task   string `json:"task"`
	Number uint32 `json:"number"`
}

// claimToken lets answers that carry the caller's own token find the task. The
// newest task of a token has it.
func (d *draft) claimToken(token string) error {
	t := d.rec.Task
	if t.Counts.Total != 1 {
		return fleet.Invalid("command.task.token", "can only be given for one agent, not for %d", t.Counts.Total)
	}
	if other, _, ok := fleet.ParseTaskToken(token); ok && d.c.get(bucketTasks, []byte(other)) != nil {
		return fleet.Refuse(fleet.CodeConflict, "token %q belongs to task %q", token, other)
	}
	d.c.store(bucketTaskTokens, token, taskToken{Task: t.ID, Number: d.rec.Top})
	return nil
}

// release moves up to limit waiting targets on, the lowest numbers first. A
// config task gives them their own config with that, at most maxEntryItems at once.
func (d *draft) release(cmd fleet.AgentCommand, limit int) (released int) {
	t := &d.rec.Task
	config := t.Kind == fleet.TaskKindConfig
	if config {
		limit = min(limit, maxEntryItems)
	}
	released, numbers := d.moveFirst(fleet.SubTaskWaiting, fleet.SubTaskPending, limit, config)
	if config && released > 0 {
		d.c.giveConfig(t.ID, cmd.Config, numbers)
	}
	if t.Deadline == 0 {
		seconds := t.Seconds
		if seconds == 0 {
			seconds = fleet.DefaultTaskSeconds
		}
		t.Deadline = d.c.now + seconds
	}
	t.Status, t.EndedAt = fleet.TaskRunning, 0
	d.c.touch(fleet.TableTasks)
	return released
}

// addTargets extends a task that is still a part.
type addTargets struct {
	ID      string   `json:"id"`
	Targets []string `json:"targets"`
}

func (*addTargets) kind() string { return "task.targets" }

func (a *addTargets) decide(c *change) (any, error) {
	d := c.openPart(a.ID)
	if d == nil || !d.rec.Building {
		return nil, fleet.Refuse(fleet.CodeConflict, "task %q is not being made", a.ID)
	}
	if err := d.addTargets(a.Targets); err != nil {
		return nil, err
	}
	d.save()
	return nil, nil
}

// sealTask completes a task of several entries.
type sealTask struct {
	ID string `json:"id"`
}

func (*sealTask) kind() string { return "task.seal" }

func (s *sealTask) decide(c *change) (any, error) {
	d := c.openPart(s.ID)
	if d == nil || !d.rec.Building {
		return nil, fleet.Refuse(fleet.CodeConflict, "task %q is not being made", s.ID)
	}
	cmd, _ := load[fleet.AgentCommand](c, bucketTaskCommands, s.ID)
	if err := d.seal(cmd); err != nil {
		return nil, err
	}
	d.save()
	return nil, nil
}

// dropTask takes back a task that could not be completed.
type dropTask struct {
	ID string `json:"id"`
}

func (*dropTask) kind() string { return "task.drop" }

func (r *dropTask) decide(c *change) (any, error) {
	if d := c.openPart(r.ID); d != nil && d.rec.Building {
		c.forgetTask(r.ID)
	}
	return nil, nil
}

// runTask releases targets: Count of them, or the part Millionths of all.
type runTask struct {
	ID          string  `json:"id"`
	JobID       string  `json:"job_id"`
	Percent     float64 `json:"percent"`
	Millionths  int     `json:"millionths"`
	Concurrence int     `json:"concurrence"`
	// Count, if not 0, continues a run that did not fit into one entry.
	Count int `json:"count,omitempty"`
}

// runAnswer tells how much of a run is left for the next entry.
type runAnswer struct {
	Left int `json:"left"`
}

func (*runTask) kind() string { return "task.run" }

func (r *runTask) decide(c *change) (any, error) {
	d := c.openTask(r.ID)
	if d == nil {
		return nil, noTask(r.ID)
	}
	t := &d.rec.Task
	switch {
	case t.Status == fleet.TaskCancelled:
		return nil, fleet.Refuse(fleet.CodeConflict, "task %q was cancelled", r.ID)
	case t.Deadline != 0 && c.now >= t.Deadline:
		return nil, fleet.Refuse(fleet.CodeConflict, "the deadline of task %q has passed", r.ID)
	case t.Counts.Waiting == 0:
		return nil, fleet.Refuse(fleet.CodeConflict, "every target of task %q was released before", r.ID)
	}
	want := r.Count
	if want == 0 {
		want = (t.Counts.Total*r.Millionths + 999_999) / 1_000_000
	}
	want = min(max(want, 1), t.Counts.Waiting)
	t.JobID, t.RollingPercent, t.Concurrence = r.JobID, r.Percent, r.Concurrence
	cmd, _ := load[fleet.AgentCommand](c, bucketTaskCommands, r.ID)
	released := d.release(cmd, want)
	d.save()
	return runAnswer{Left: want - released}, nil
}

func noTask(id string) error {
	return fleet.Refuse(fleet.CodeNotFound, "there is no task %q", id)
}

type cancelTask struct {
	ID string `json:"id"`
}

func (*cancelTask) kind() string { return "task.cancel" }

func (t *cancelTask) decide(c *change) (any, error) {
	d := c.openTask(t.ID)
	if d == nil {
		return nil, noTask(t.ID)
	}
	task := &d.rec.Task
	if task.Status == fleet.TaskCancelled || task.Counts.Waiting+task.Counts.Pending+task.Counts.Sent == 0 {
		return nil, fleet.Refuse(fleet.CodeConflict, "task %q has ended: it is %s", t.ID, task.Status)
	}
	task.Status, task.EndedAt = fleet.TaskCancelled, 0
	d.moveAll(fleet.SubTaskWaiting, fleet.SubTaskCancelled)
	d.moveAll(fleet.SubTaskPending, fleet.SubTaskCancelled)
	d.save()
	c.touch(fleet.TableTasks)
	return nil, nil
}

// failTask ends a task that its caller no longer waits for.
type failTask struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

func (*failTask) kind() string { return "task.fail" }

func (f *failTask) decide(c *change) (any, error) {
	d := c.openTask(f.ID)
	if d == nil {
		return nil, noTask(f.ID)
	}
	var failed []uint32
	for _, from := range []fleet.SubTaskState{fleet.SubTaskWaiting, fleet.SubTaskPending} {
		_, numbers := d.moveFirst(from, fleet.SubTaskFailed, maxEntryItems, true)
		failed = append(failed, numbers...)
		d.moveAll(from, fleet.SubTaskFailed)
	}
	d.moveAll(fleet.SubTaskSent, fleet.SubTaskUnknown)
	// A thousand reasons are enough to understand; the states are all there.
	slices.Sort(failed)
	for _, n := range failed[:min(len(failed), maxEntryItems)] {
		c.store(bucketTaskResults, string(resultKey(f.ID, n)), fleet.TaskResult{
			Token: fleet.TaskToken(f.ID, n), AgentID: agentOfNumber(c, n),
			State: fleet.SubTaskFailed, Message: f.Reason, At: c.now,
		})
	}
	d.save()
	c.touch(fleet.TableTasks)
	return nil, nil
}

func resultKey(task string, n uint32) []byte {
	return append(joinKey(task, ""), numberKey(n)...)
}
