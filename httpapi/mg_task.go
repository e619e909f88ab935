// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"muster/fleet"
)

const (
	// maxTodoShown bounds the waiting targets that getTask/:id lists.
	maxTodoShown = 5000
	// maxTargetsShown is up to how many targets getTask/:id lists them all.
	maxTargetsShown = 1000
	// maxSubTasksShown bounds getSubTask/:task_id, which has no pages.
	maxSubTasksShown = 20000
	// maxSubTasksFound bounds what getSubTask/filter keeps while it searches.
	maxSubTasksFound = 200000
	// keepResultsUpTo targets, the text of good results is kept too.
	keepResultsUpTo = 1000
	maxTaskText     = 256
)

// taskRoutes are Elkeid's routes about tasks.
func (a *API) taskRoutes() []Route {
	route := func(method, path string, p fleet.Permission, summary string, h handlerFunc) Route {
		return Route{Method: method, Path: "/api/v1/agent" + path, Listeners: listenersAPI, Access: permit(p), Summary: summary, handle: h}
	}
	read, run := fleet.PermFleetRead, fleet.PermTaskRun
	return []Route{
		route(http.MethodPost, "/createTask/task", run, "Make a task that sends a task to agents; it does not run yet.", a.taskCreate(fleet.TaskKindTask)),
		route(http.MethodPost, "/createTask/config", run, "Make a task that gives agents a config of their own; it does not run yet.", a.taskCreate(fleet.TaskKindConfig)),
		route(http.MethodPost, "/controlTask", run, "Run a task for a share of its targets, or cancel it.", a.taskControl),
		route(http.MethodPost, "/quickTask/task", run, "Send a task to one agent.", a.taskQuick),
		route(http.MethodGet, "/getTask/:id", read, "One task.", a.taskGet),
		heavy(route(http.MethodPost, "/getTask/filter", read, "The tasks that a filter chooses, newest first.", a.taskFilter)),
		heavy(route(http.MethodGet, "/getSubTask/:task_id", read, "A task's parts.", a.subTaskList)),
		heavy(route(http.MethodPost, "/getSubTask/filter", read, "The parts of tasks that a filter chooses.", a.subTaskFilter)),
	}
}

func (a *API) taskCreate(kind fleet.TaskKind) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request, c *call) error {
		var b taskRequest
		if err := decodeJSON(r, &b); err != nil {
			return err
		}
		if len(b.Name) > maxTaskText || len(b.Action) > maxTaskText || len(b.Tag) > maxTagBytes {
			return fleet.Invalid("task_name", "and action may have %d bytes at most, tag %d", maxTaskText, maxTagBytes)
		}
		task := fleet.NewTask{
			ID: newID(a.opts.Now()), Name: b.Name, Action: b.Action, Kind: kind, Tag: b.Tag,
			Creator: c.caller.name(), Delivery: fleet.DeliveryOnce, Seconds: b.Seconds,
		}
		switch kind {
		case fleet.TaskKindConfig:
			task.Command.Config = b.Data.Config
		default:
			task.Command.Task = withoutToken(b.Data.Task)
		}
		if err := task.Check(); err != nil {
			return err
		}
		if err := a.permitCommand(c.caller, task.Command); err != nil {
			return err
		}
		ids, err := a.elkeidTargets(w, r, b)
		if err != nil {
			return err
		}
		task.KeepResults = len(ids) <= keepResultsUpTo
		stored, err := a.opts.State.Tasks.CreateTask(r.Context(), task, ids)
		if err != nil {
			return fmt.Errorf("create task: %w", err)
		}
		return succeed(w, map[string]any{"task_id": stored.ID, "count": stored.Counts.Total})
	}
}

// withoutToken drops the token: the store makes one for each agent.
func withoutToken(t *fleet.AgentTask) *fleet.AgentTask {
	if t == nil {
		return nil
	}
	own := *t
	own.Token = ""
	return &own
}

// elkeidTargets are the agents of the tag, of the list and of the filter, together.
// A filter without rules adds nobody: a task for every agent must say so. IDs that
// nobody has are passed over while somebody else is meant.
func (a *API) elkeidTargets(w http.ResponseWriter, r *http.Request, b taskRequest) ([]string, error) {
	known, unknown, err := a.resolveAgents(r.Context(), b.IDList)
	if err != nil {
		return nil, err
	}
	ids := slices.Clone(known)
	if b.Tag != "" {
		tagged, err := a.opts.State.Tags.AgentsByTag(b.Tag)
		if err != nil {
			return nil, fmt.Errorf("find agents by tag: %w", err)
		}
		ids = append(ids, tagged...)
	}
	if b.Filter != nil {
		m, err := a.compileFilter(*b.Filter)
		if err != nil {
			return nil, err
		}
		if !m.All() {
			chosen, err := a.chooseAgents(w, r, *b.Filter)
			if err != nil {
				return nil, err
			}
			ids = append(ids, chosen...)
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	switch {
	case len(ids) > 0:
		return ids, nil
	case len(unknown) > 0:
		return nil, fleet.Refuse(fleet.CodeNotFound, "id_list names none but unknown agents, such as %q", clip(unknown[0]))
	}
	return nil, fleet.Invalid("id_list", `and tag and filter choose no agent; to choose all, filter agent_id with $ne ""`)
}

func (a *API) taskControl(w http.ResponseWriter, r *http.Request, c *call) error {
	var b struct {
		TaskID      string  `json:"task_id"`
		Action      string  `json:"action"`
		Percent     float64 `json:"rolling_percent"`
		Concurrence int     `json:"concurrence"`
	}
	if err := decodeJSON(r, &b); err != nil {
		return err
	}
	switch {
	case b.TaskID == "":
		return fleet.Invalid("task_id", "is missing")
	case b.Action == "cancel":
		if err := a.permitTask(c.caller, b.TaskID); err != nil {
			return err
		}
		if _, err := a.opts.State.TaskControl.CancelTask(r.Context(), b.TaskID); err != nil {
			return fmt.Errorf("cancel task: %w", err)
		}
		return succeed(w, map[string]string{"taskID": b.TaskID})
	case b.Action != "run":
		return fleet.Invalid("action", "%.20q is none of run, cancel", b.Action)
	case !(b.Percent > 0 && b.Percent <= 1):
		return fleet.Invalid("rolling_percent", "%v is not above 0 and at most 1", b.Percent)
	case b.Concurrence < 1 || b.Concurrence > fleet.MaxConcurrence:
		return fleet.Invalid("concurrence", "%d is not between 1 and %d", b.Concurrence, fleet.MaxConcurrence)
	}
	before, err := a.opts.State.Tasks.Task(b.TaskID)
	if err != nil {
		return fmt.Errorf("look up task: %w", err)
	}
	if err := a.permitCommand(c.caller, before.Command); err != nil {
		return err
	}
	jobID := newID(a.opts.Now())
	after, err := a.opts.State.TaskControl.RunTask(r.Context(), b.TaskID, jobID, b.Percent, b.Concurrence)
	if err != nil {
		return fmt.Errorf("run task: %w", err)
	}
	released := max(0, before.Counts.Waiting-after.Counts.Waiting)
	return succeed(w, map[string]any{"taskID": b.TaskID, "jobID": jobID, "id_count": released})
}

// taskQuick makes a task for one agent and runs it. An agent that is offline
// gets it when it comes back, until the task's deadline.
func (a *API) taskQuick(w http.ResponseWriter, r *http.Request, c *call) error {
	var b commandBody
	if err := decodeJSON(r, &b); err != nil {
		return err
	}
	if err := fleet.CheckAgentID(b.AgentID); err != nil {
		return err
	}
	var seconds int64
	if text := r.URL.Query().Get("timeout"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || n > fleet.MaxTaskSeconds {
			return fleet.Invalid("timeout", "%.20q is not a number of seconds between 0 and %d", text, fleet.MaxTaskSeconds)
		}
		seconds = n
	}
	task := fleet.NewTask{
		ID: newID(a.opts.Now()), Name: "quickTask", Action: "quickTask", Kind: fleet.TaskKindTask,
		Command: fleet.AgentCommand{Task: withoutToken(b.Command.Task)}, Creator: c.caller.name(),
		Delivery: fleet.DeliveryOnce, Seconds: seconds, Run: true, KeepResults: true,
	}
	if err := task.Check(); err != nil {
		return err
	}
	if err := a.permitCommand(c.caller, task.Command); err != nil {
		return err
	}
	if _, _, err := a.resolveAgents(r.Context(), []string{b.AgentID}); err != nil {
		return err
	}
	stored, err := a.opts.State.Tasks.CreateTask(r.Context(), task, []string{b.AgentID})
	if err != nil {
		return fmt.Errorf("create task: %w", err)
	}
	if r.URL.Query().Get("token") != "true" {
		return succeed(w, "")
	}
	return succeed(w, stored.ID)
}

// taskGet answers as Elkeid does about a task that there is not: with an empty one.
func (a *API) taskGet(w http.ResponseWriter, r *http.Request, c *call) error {
	task, err := a.opts.State.Tasks.Task(c.param("id"))
	if errors.Is(err, fleet.ErrNotFound) {
		return succeed(w, elkeidTask{
			taskRequest: taskRequest{IDList: []string{}, Data: agentAction{Config: configItems{}}},
			taskState:   taskState{TodoList: []string{}, JobList: []string{}},
		})
	}
	if err != nil {
		return fmt.Errorf("look up task: %w", err)
	}
	var ids, todo []string
	few := task.Counts.Total <= maxTargetsShown
	if few || task.Counts.Waiting > 0 {
		err := a.eachSubTask(r.Context(), task, func(s fleet.SubTask) bool {
			if few {
				ids = append(ids, s.AgentID)
			}
			if s.State == fleet.SubTaskWaiting {
				todo = append(todo, s.AgentID)
			}
			return len(todo) < maxTodoShown
		})
		if err != nil {
			return err
		}
	}
	return succeed(w, taskDocOf(task, ids, todo))
}

// eachTask calls fn for every task, newest first, until fn returns false.
func (a *API) eachTask(ctx context.Context, fn func(fleet.Task) (more bool, err error)) error {
	after := ""
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("search tasks: %w", err)
		}
		batch, err := a.opts.State.Tasks.Tasks(after, scanBatch)
		if err != nil {
			return fmt.Errorf("search tasks: %w", err)
		}
		for _, t := range batch {
			if more, err := fn(t); !more || err != nil {
				return err
			}
			after = t.ID
		}
		if len(batch) < scanBatch {
			return nil
		}
	}
}

func (a *API) taskFilter(w http.ResponseWriter, r *http.Request, _ *call) error {
	q, err := parsePage(r)
	if err != nil {
		return err
	}
	var f fleet.Filter
	if err := decodeJSON(r, &f); err != nil {
		return err
	}
	m, err := a.compileFilter(f)
	if err != nil {
		return err
	}
	var hits []found[string]
	err = a.eachTask(r.Context(), func(t fleet.Task) (bool, error) {
		hit := found[string]{what: t.ID}
		if !m.All() || q.sorts() {
			doc := jsonDocument(taskDocOf(t, nil, nil))
			if !m.Match(doc) {
				return true, nil
			}
			hit.order = doc(q.OrderKey)
		}
		hits = append(hits, hit)
		return true, nil
	})
	if err != nil {
		return err
	}
	total, items := len(hits), make([]elkeidTask, 0, q.Size)
	for _, hit := range arrange(hits, q) {
		task, err := a.opts.State.Tasks.Task(hit.what)
		if errors.Is(err, fleet.ErrNotFound) {
			continue // it was forgotten since
		}
		if err != nil {
			return fmt.Errorf("look up task: %w", err)
		}
		items = append(items, taskDocOf(task, nil, nil))
	}
	return succeed(w, pageOf(q, total, items))
}
