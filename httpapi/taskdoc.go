// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"strings"

	"muster/fleet"
)

// The types of tasks, in Elkeid's words.
const (
	elkeidTypeTask   = "Agent_Task"
	elkeidTypeConfig = "Agent_Config"
)

// taskRequest is what a client says of a task, in Elkeid's shape.
type taskRequest struct {
	Tag    string        `json:"tag"`
	IDList []string      `json:"id_list"`
	Filter *fleet.Filter `json:"filter"`
	Data   agentAction   `json:"data"`
	Name   string        `json:"task_name"`
	Action string        `json:"action"`
	User   string        `json:"task_user"` // always the caller
	// Seconds is the time from the first run until parts without an answer end.
	Seconds int64 `json:"subtask_running_timeout"`
}

// taskState is how far a task is, in Elkeid's shape.
type taskState struct {
	ID          string   `json:"task_id"`
	Type        string   `json:"task_type"`
	InnerStatus string   `json:"inner_status"` // of the distribution
	Status      string   `json:"task_status"`
	TodoList    []string `json:"todo_list"`
	JobList     []string `json:"job_list"`
	CreatedAt   int64    `json:"create_time"`
	UpdatedAt   int64    `json:"update_time"`
}

// taskCounts are a task's parts, in Elkeid's shape.
type taskCounts struct {
	Total       int `json:"id_count"`
	Distributed int `json:"distributed_count"`
	Created     int `json:"sub_task_created"`
	Running     int `json:"sub_task_running"`
	Failed      int `json:"sub_task_failed"`
	Succeeded   int `json:"sub_task_succeed"`
}

// elkeidTask is a task in Elkeid's shape.
type elkeidTask struct {
	taskRequest
	taskState
	taskCounts
}

// elkeidType is the type of a task of the kind.
func elkeidType(k fleet.TaskKind) string {
	if k == fleet.TaskKindConfig {
		return elkeidTypeConfig
	}
	return elkeidTypeTask
}

// taskDocOf puts a task into Elkeid's shape. ids are its targets, todo those that
// wait; either may be left out.
func taskDocOf(t fleet.Task, ids, todo []string) elkeidTask {
	c := t.Counts
	return elkeidTask{
		taskRequest: taskRequest{
			Tag: t.Tag, IDList: nonNil(ids),
			Data: agentAction{Ctrl: t.Command.Ctrl, Task: t.Command.Task, Config: nonNil(t.Command.Config)},
			Name: t.Name, Action: t.Action, User: t.Creator, Seconds: t.Seconds,
		},
		taskState: taskState{
			ID: t.ID, Type: elkeidType(t.Kind), InnerStatus: innerStatus(t), Status: string(t.Status),
			TodoList: nonNil(todo), JobList: jobList(t), CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt,
		},
		taskCounts: taskCounts{
			Total: c.Total, Distributed: c.Total - c.Waiting,
			Created: c.Waiting, Running: c.Pending + c.Sent, Succeeded: c.Succeeded,
			Failed: c.Failed + c.Unknown + c.Expired + c.Cancelled,
		},
	}
}

// innerStatus is the state of the distribution: it is finished when nothing that
// was released is left to be sent, though answers may be missing.
func innerStatus(t fleet.Task) string {
	switch {
	case t.Status == fleet.TaskCreated, t.Status == fleet.TaskCancelled:
		return string(t.Status)
	case t.Counts.Pending > 0:
		return string(fleet.TaskRunning)
	}
	return string(fleet.TaskFinished)
}

func jobList(t fleet.Task) []string {
	if t.JobID == "" {
		return []string{}
	}
	return []string{t.JobID}
}

// subTaskRef says which sub-task it is, in Elkeid's shape.
type subTaskRef struct {
	Append   map[string]any `json:"append_data"`
	Type     string         `json:"task_type"`
	DataType fleet.DataType `json:"task_data_type"`
	AgentID  string         `json:"agent_id"`
	TaskID   string         `json:"task_id"`
	JobID    string         `json:"job_id"`
	Data     subTaskData    `json:"task_data"`
	URL      string         `json:"task_url"`
	Token    string         `json:"token"`
}

// subTaskData is what is sent to the agent, with the sub-task's token.
type subTaskData struct {
	Command fleet.AgentCommand `json:"command"`
}

// subTaskState is how far a sub-task is, in Elkeid's shape.
type subTaskState struct {
	Status    string `json:"status"`
	StatusMsg string `json:"status_msg"`
	CreatedAt int64  `json:"insert_time"`
	UpdatedAt int64  `json:"update_time"`
	Deadline  int64  `json:"job_time_out_time"`
	StartedAt int64  `json:"job_start_time"`
	Result    string `json:"task_result"`
	Response  string `json:"task_resp"`
}

type elkeidSubTask struct {
	subTaskRef
	subTaskState
}

// subTaskWord is Elkeid's word for a state, and what to add where that word is
// wider than ours.
type subTaskWord struct{ status, why string }

// subTaskWords is the one mapping of states to Elkeid's words.
var subTaskWords = map[fleet.SubTaskState]subTaskWord{
	fleet.SubTaskWaiting:   {"created", ""},
	fleet.SubTaskPending:   {"running", ""},
	fleet.SubTaskSent:      {"succeed", ""}, // Elkeid's word for sent
	fleet.SubTaskSucceeded: {"result_succeed", ""},
	fleet.SubTaskFailed:    {"result_failed", ""},
	fleet.SubTaskUnknown:   {"failed", "sent, but there was no answer before the deadline: it may have been carried out"},
	fleet.SubTaskExpired:   {"failed", "the deadline passed before the agent could be reached"},
	fleet.SubTaskCancelled: {"failed", "cancelled before it was sent"},
}

// wordOf is Elkeid's word for the sub-task's state: what no agent answered to is
// not called a result.
func wordOf(t fleet.Task, s fleet.SubTask) subTaskWord {
	answered := s.Result != nil && s.Result.DataType != 0
	switch {
	case s.State == fleet.SubTaskSucceeded && !answered && !t.Command.ExpectsReply():
		return subTaskWord{"succeed", ""}
	case s.State == fleet.SubTaskFailed && s.Result != nil && !answered:
		return subTaskWord{"failed", ""}
	}
	return subTaskWords[s.State]
}

// subTaskDocOf puts a sub-task into Elkeid's shape.
func subTaskDocOf(t fleet.Task, s fleet.SubTask) elkeidSubTask {
	word := wordOf(t, s)
	data := subTaskData{Command: t.Command}
	if t.Command.Task != nil {
		own := *t.Command.Task
		own.Token = s.Token
		data.Command.Task = &own
	}
	doc := elkeidSubTask{
		subTaskRef: subTaskRef{
			Append: map[string]any{}, Type: elkeidType(t.Kind),
			AgentID: s.AgentID, TaskID: t.ID, JobID: t.JobID, Data: data, Token: s.Token,
		},
		subTaskState: subTaskState{
			Status: word.status, StatusMsg: word.why, CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt,
			Deadline: t.Deadline, StartedAt: startedAt(t),
		},
	}
	if t.Command.Task != nil {
		doc.DataType = t.Command.Task.DataType
	}
	if r := s.Result; r != nil {
		doc.UpdatedAt, doc.Result = r.At, r.Message
		if doc.StatusMsg == "" {
			doc.StatusMsg = r.Status
		}
	}
	return doc
}

// startedAt is when the task first ran, 0 if it did not.
func startedAt(t fleet.Task) int64 {
	switch {
	case t.Deadline == 0:
		return 0
	case t.Seconds == 0:
		return t.Deadline - fleet.DefaultTaskSeconds
	}
	return t.Deadline - t.Seconds
}

// jsonDocument makes a value's JSON a document that can be filtered; a dot in a
// field's name goes into what is nested.
func jsonDocument(v any) fleet.Document {
	b, err := json.Marshal(v)
	var tree map[string]any
	if err == nil {
		err = json.Unmarshal(b, &tree)
	}
	if err != nil {
		panic(err) // v is one of this package's own types
	}
	return func(field string) any {
		var at any = tree
		for name := range strings.SplitSeq(field, ".") {
			object, ok := at.(map[string]any)
			if !ok {
				return nil
			}
			at = object[name]
		}
		return at
	}
}

// subTaskDocument is jsonDocument for sub-tasks, of which there are many: the
// command is left out, and nothing is encoded.
func subTaskDocument(d elkeidSubTask) fleet.Document {
	return func(field string) any {
		switch field {
		case "task_type":
			return d.Type
		case "task_data_type":
			return float64(d.DataType)
		case "agent_id":
			return d.AgentID
		case "task_id":
			return d.TaskID
		case "job_id":
			return d.JobID
		case "token":
			return d.Token
		case "status":
			return d.Status
		case "status_msg":
			return d.StatusMsg
		case "task_result":
			return d.Result
		case "insert_time":
			return float64(d.CreatedAt)
		case "update_time":
			return float64(d.UpdatedAt)
		case "job_time_out_time":
			return float64(d.Deadline)
		case "job_start_time":
			return float64(d.StartedAt)
		}
		return nil
	}
}
