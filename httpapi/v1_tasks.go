// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"

	"muster/fleet"
	"muster/internal/apiv1"
)

// Limits of tasks as the API takes them.
const (
	maxTaskNameBytes = 128
	agentsChunk      = 5000
)

func (a *API) v1TaskRoutes() []Route {
	read, run := permit(fleet.PermFleetRead), permit(fleet.PermTaskRun)
	return []Route{
		{
			Method: http.MethodGet, Path: "/v1/tasks", Heavy: true, Access: read, handle: a.v1Tasks,
			Summary: "Tasks, the newest first.", Query: apiv1.PageQuery{}, Response: apiv1.Page[apiv1.Task]{},
		},
		{
			Method: http.MethodPost, Path: "/v1/tasks", Access: run, handle: withBody(a.v1CreateTask),
			Summary: "Create a task for agents named by ID, by a tag or all, and run it unless hold is set.",
			Request: apiv1.NewTask{}, Response: apiv1.Task{}, Status: http.StatusCreated,
		},
		{
			Method: http.MethodGet, Path: "/v1/tasks/:id", Access: read, handle: a.v1Task,
			Summary: "One task.", Query: pathID{}, Response: apiv1.Task{},
		},
		{
			Method: http.MethodPost, Path: "/v1/tasks/:id/run", Access: run, handle: withOptionalBody(a.v1RunTask),
			Summary: "Release targets that wait: all, or a part of all targets.", Query: pathID{}, Request: apiv1.RunTask{}, Response: apiv1.Task{},
		},
		{
			Method: http.MethodPost, Path: "/v1/tasks/:id/cancel", Access: run, handle: a.v1CancelTask,
			Summary: "Send nothing more of a task. What agents have already, they carry out.", Query: pathID{}, Response: apiv1.Task{},
		},
		{
			Method: http.MethodGet, Path: "/v1/tasks/:id/agents", Heavy: true, Access: read, handle: a.v1TaskAgents,
			Summary: "What became of a task, agent by agent.",
			Query: struct {
				pathID
				apiv1.PageQuery
			}{}, Response: apiv1.Page[apiv1.TaskAgent]{},
		},
	}
}

func (a *API) v1Tasks(w http.ResponseWriter, r *http.Request, _ *call) error {
	values, err := listQuery(r)
	if err != nil {
		return err
	}
	limit, after, err := limitAfter(values)
	if err != nil {
		return err
	}
	tasks, err := a.opts.State.Tasks.Tasks(after, limit+1)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, keyPage(convert(tasks, showTask), limit, func(t apiv1.Task) string { return t.ID }))
}

func (a *API) v1CreateTask(w http.ResponseWriter, r *http.Request, c *call, in apiv1.NewTask) error {
	t, err := a.newTask(in, c.caller)
	if err != nil {
		return err
	}
	if err := a.permitCommand(c.caller, t.Command); err != nil {
		return err
	}
	ids, err := a.targets(r.Context(), in)
	if err != nil {
		return err
	}
	created, err := a.opts.State.Tasks.CreateTask(r.Context(), t, ids)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/tasks/"+created.ID)
	return respond(w, http.StatusCreated, showTask(created))
}

func (a *API) newTask(in apiv1.NewTask, by caller) (fleet.NewTask, error) {
	t := fleet.NewTask{
		ID: newID(a.opts.Now()), Name: in.Name, Kind: fleet.TaskKindTask, Creator: by.name(), Tag: in.Tag,
		Delivery: fleet.Delivery(cmp.Or(in.Delivery, string(fleet.DeliveryOnce))), Seconds: in.Seconds,
		Run: !in.Hold, KeepResults: in.KeepResults,
	}
	if len(in.Name) > maxTaskNameBytes {
		return t, fleet.Invalid("name", "is %d bytes long, at most %d are accepted", len(in.Name), maxTaskNameBytes)
	}
	work, config := in.Command.Task, in.Command.Config
	switch {
	case work != nil && config != nil:
		return t, fleet.Invalid("command", "has both a task and a config: make two tasks")
	case work != nil:
		t.Command.Task = &fleet.AgentTask{DataType: fleet.DataType(work.DataType), Name: work.Name, Data: work.Data}
	case config != nil:
		t.Kind = fleet.TaskKindConfig
		t.Command.Config = convert(config, toConfigItem)
	}
	t.Action = string(t.Kind)
	return t, t.Check()
}

// targets resolves who a task is for.
func (a *API) targets(ctx context.Context, in apiv1.NewTask) ([]string, error) {
	ways := 0
	for _, given := range []bool{len(in.Agents) > 0, in.Tag != "", in.All} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return nil, fleet.Invalid("agents", "name the targets in one way: agents, tag or all")
	}
	var ids []string
	var err error
	switch {
	case in.All:
		ids, err = a.allIDs()
	case in.Tag != "":
		ids, err = a.opts.State.Tags.AgentsByTag(in.Tag)
	default:
		ids = slices.Clone(in.Agents)
		slices.Sort(ids)
		ids = slices.Compact(ids)
		_, _, err = a.resolveAgents(ctx, ids) // the store refuses those that are unknown
	}
	if err == nil && len(ids) == 0 {
		err = fleet.Invalid(map[bool]string{true: "all", false: "tag"}[in.All], "no agent is meant by it")
	}
	return ids, err
}

func (a *API) allIDs() ([]string, error) {
	var ids []string
	for after := ""; ; {
		chunk, err := a.opts.State.Agents.Agents(after, agentsChunk)
		if err != nil {
			return nil, err
		}
		for _, g := range chunk {
			ids = append(ids, g.AgentID)
		}
		if len(chunk) < agentsChunk {
			return ids, nil
		}
		after = ids[len(ids)-1]
	}
}

func (a *API) v1Task(w http.ResponseWriter, _ *http.Request, c *call) error {
	t, err := a.opts.State.Tasks.Task(c.param("id"))
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, showTask(t))
}

func (a *API) v1RunTask(w http.ResponseWriter, r *http.Request, c *call, in apiv1.RunTask) error {
	percent, concurrence := cmp.Or(in.Percent, 1), cmp.Or(in.Concurrence, fleet.MaxConcurrence)
	if !(percent > 0 && percent <= 1) {
		return fleet.Invalid("percent", "%v is not above 0 and up to 1", percent)
	}
	if concurrence < 1 || concurrence > fleet.MaxConcurrence {
		return fleet.Invalid("concurrence", "%d is not from 1 to %d", concurrence, fleet.MaxConcurrence)
	}
	if err := a.permitTask(c.caller, c.param("id")); err != nil {
		return err
	}
	t, err := a.opts.State.TaskControl.RunTask(r.Context(), c.param("id"), newID(a.opts.Now()), percent, concurrence)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, showTask(t))
}

func (a *API) v1CancelTask(w http.ResponseWriter, r *http.Request, c *call) error {
	if err := a.permitTask(c.caller, c.param("id")); err != nil {
		return err
	}
	t, err := a.opts.State.TaskControl.CancelTask(r.Context(), c.param("id"))
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, showTask(t))
}

func (a *API) v1TaskAgents(w http.ResponseWriter, r *http.Request, c *call) error {
	values, err := listQuery(r)
	if err != nil {
		return err
	}
	limit, text, err := limitAfter(values)
	if err != nil {
		return err
	}
	var after uint64
	if text != "" {
		if after, err = strconv.ParseUint(text, 10, 32); err != nil {
			return fleet.Invalid("after", "%q is not a next of this list", clip(text))
		}
	}
	if _, err := a.opts.State.Tasks.Task(c.param("id")); err != nil {
		return err
	}
	subs, err := a.opts.State.Tasks.SubTasks(c.param("id"), uint32(after), limit+1)
	if err != nil {
		return err
	}
	p := keyPage(subs, limit, func(s fleet.SubTask) string { return strconv.FormatUint(uint64(s.Number), 10) })
	return respond(w, http.StatusOK, apiv1.Page[apiv1.TaskAgent]{Items: convert(p.Items, showTaskAgent), Next: p.Next})
}

func showTask(t fleet.Task) apiv1.Task {
	out := apiv1.Task{
		ID: t.ID, Name: t.Name, Kind: string(t.Kind), Status: string(t.Status), Creator: t.Creator, Tag: t.Tag,
		Delivery: string(t.Delivery), Seconds: cmp.Or(t.Seconds, fleet.DefaultTaskSeconds),
		RollingPercent: t.RollingPercent, Concurrence: t.Concurrence, KeepResults: t.KeepResults,
		CreatedAt: at(t.CreatedAt), UpdatedAt: at(t.UpdatedAt), Deadline: at(t.Deadline), EndedAt: at(t.EndedAt),
		Counts: apiv1.TaskCounts(t.Counts),
	}
	if w := t.Command.Task; w != nil {
		out.Command.Task = &apiv1.AgentTask{DataType: int32(w.DataType), Name: w.Name, Data: w.Data}
	}
	if len(t.Command.Config) > 0 {
		out.Command.Config = convert(t.Command.Config, fromConfigItem)
	}
	return out
}

func showTaskAgent(s fleet.SubTask) apiv1.TaskAgent {
	out := apiv1.TaskAgent{AgentID: s.AgentID, State: string(s.State)}
	if r := s.Result; r != nil {
		out.Result = &apiv1.TaskResult{DataType: int32(r.DataType), Status: r.Status, Message: r.Message, At: at(r.At)}
	}
	return out
}
