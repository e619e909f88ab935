// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"muster/fleet"
)

// eachSubTask calls fn for every part of a task, by number, until fn returns false.
func (a *API) eachSubTask(ctx context.Context, t fleet.Task, fn func(fleet.SubTask) bool) error {
	after := uint32(0)
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("search sub-tasks: %w", err)
		}
		batch, err := a.opts.State.Tasks.SubTasks(t.ID, after, scanBatch)
		if err != nil {
			return fmt.Errorf("search sub-tasks: %w", err)
		}
		for _, s := range batch {
			if !fn(s) {
				return nil
			}
			after = s.Number
		}
		if len(batch) < scanBatch {
			return nil
		}
	}
}

// subTaskList answers with all parts of a task, for there are no pages here.
func (a *API) subTaskList(w http.ResponseWriter, r *http.Request, c *call) error {
	task, err := a.opts.State.Tasks.Task(c.param("task_id"))
	if errors.Is(err, fleet.ErrNotFound) {
		return succeed(w, []elkeidSubTask{})
	}
	if err != nil {
		return fmt.Errorf("look up task: %w", err)
	}
	if task.Counts.Total > maxSubTasksShown {
		return withStatus(elkeidExceedLimit, http.StatusOK, fleet.Refuse(fleet.CodeTooLarge,
			"the task has %d parts, at most %d are listed at once: use getSubTask/filter, which has pages", task.Counts.Total, maxSubTasksShown))
	}
	items := make([]elkeidSubTask, 0, task.Counts.Total)
	err = a.eachSubTask(r.Context(), task, func(s fleet.SubTask) bool {
		items = append(items, subTaskDocOf(task, s))
		return true
	})
	if err != nil {
		return err
	}
	return succeed(w, items)
}

// subTaskHit is one chosen sub-task with the task that it is a part of.
type subTaskHit struct {
	task *fleet.Task
	sub  fleet.SubTask
}

func (a *API) subTaskFilter(w http.ResponseWriter, r *http.Request, _ *call) error {
	q, err := parsePage(r)
	if err != nil {
		return err
	}
	var f fleet.Filter
	if err := decodeJSON(r, &f); err != nil {
		return err
	}
	hits, err := a.findSubTasks(r.Context(), f, q)
	if err != nil {
		return err
	}
	total, items := len(hits), make([]elkeidSubTask, 0, q.Size)
	for _, hit := range arrange(hits, q) {
		h := hit.what
		items = append(items, subTaskDocOf(*h.task, h.sub))
	}
	return succeed(w, pageOf(q, total, items))
}

// findSubTasks searches the newest tasks first, or one alone if the filter names it.
func (a *API) findSubTasks(ctx context.Context, f fleet.Filter, q pageQuery) ([]found[subTaskHit], error) {
	m, err := a.compileFilter(f)
	if err != nil {
		return nil, err
	}
	var hits []found[subTaskHit]
	search := func(t fleet.Task) (bool, error) {
		err := a.eachSubTask(ctx, t, func(s fleet.SubTask) bool {
			doc := subTaskDocument(subTaskDocOf(t, s))
			if m.Match(doc) {
				hit := found[subTaskHit]{what: subTaskHit{task: &t, sub: s}}
				if q.sorts() {
					hit.order = doc(q.OrderKey)
				}
				hits = append(hits, hit)
			}
			return len(hits) <= maxSubTasksFound
		})
		if err == nil && len(hits) > maxSubTasksFound {
			err = withStatus(elkeidExceedLimit, http.StatusOK, fleet.Refuse(fleet.CodeTooLarge,
				"the filter chooses more than %d parts of tasks: name a task_id", maxSubTasksFound))
		}
		return err == nil, err
	}
	taskID, named := f.Equals("task_id")
	if token, ok := f.Equals("token"); ok && !named {
		taskID, _, named = fleet.ParseTaskToken(token)
	}
	if !named {
		return hits, a.eachTask(ctx, search)
	}
	task, err := a.opts.State.Tasks.Task(taskID)
	switch {
	case errors.Is(err, fleet.ErrNotFound):
		return hits, nil
	case err != nil:
		return nil, fmt.Errorf("look up task: %w", err)
	}
	_, err = search(task)
	return hits, err
}
