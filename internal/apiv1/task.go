// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiv1

import "time"

// Command is what a task sends: work for an agent or a plugin, or a config.
type Command struct {
	Task   *AgentTask   `json:"task,omitempty"`
	Config []ConfigItem `json:"config,omitempty" description:"Becomes the targets' own desired config."`
}

// AgentTask is work for an agent or one of its plugins.
type AgentTask struct {
	DataType int32  `json:"data_type"`
	Name     string `json:"name" description:"The plugin, or elkeid-agent."`
	Data     string `json:"data,omitempty"`
}

// NewTask asks for a task for the agents that are named by ID or by a tag, or
// for all.
type NewTask struct {
	Name        string   `json:"name,omitempty"`
	Agents      []string `json:"agents,omitempty" description:"IDs; all must be known."`
	Tag         string   `json:"tag,omitempty" description:"Every agent that carries it now."`
	All         bool     `json:"all,omitempty" description:"Every agent of the inventory."`
	Command     Command  `json:"command"`
	Delivery    string   `json:"delivery,omitempty" enum:"once,retry" default:"once" description:"once: never sent twice; without an answer it ends unknown. retry: sent again until answered, so it may run twice."`
	Seconds     int64    `json:"seconds,omitempty" minimum:"1" maximum:"2592000" description:"From the first run to the deadline; a day when absent."`
	Hold        bool     `json:"hold,omitempty" description:"Store the task, run it later."`
	KeepResults bool     `json:"keep_results,omitempty" description:"Keep the text of good results too."`
}

// RunTask releases a part of a task's targets.
type RunTask struct {
	Percent     float64 `json:"percent,omitempty" minimum:"0" maximum:"1" description:"The part of all targets to release, above 0; 1 when absent."`
	Concurrence int     `json:"concurrence,omitempty" minimum:"1" maximum:"999" description:"The most sends at once; 999 when absent."`
}

// Task is a stored task.
type Task struct {
	ID             string     `json:"id"`
	Name           string     `json:"name"`
	Kind           string     `json:"kind" enum:"task,config,command"`
	Status         string     `json:"status" enum:"created,running,finished,cancelled"`
	Command        Command    `json:"command"`
	Creator        string     `json:"creator"`
	Tag            string     `json:"tag,omitempty"`
	Delivery       string     `json:"delivery" enum:"once,retry"`
	Seconds        int64      `json:"seconds"`
	RollingPercent float64    `json:"rolling_percent" description:"Of the last run."`
	Concurrence    int        `json:"concurrence" description:"Of the last run."`
	KeepResults    bool       `json:"keep_results"`
	CreatedAt      time.Time  `json:"created_at"`
	UpdatedAt      time.Time  `json:"updated_at"`
	Deadline       time.Time  `json:"deadline,omitzero"`
	EndedAt        time.Time  `json:"ended_at,omitzero"`
	Counts         TaskCounts `json:"counts"`
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

// TaskAgent is one agent's part of a task.
type TaskAgent struct {
	AgentID string      `json:"agent_id"`
	State   string      `json:"state" enum:"waiting,pending,sent,succeeded,failed,unknown,expired,cancelled"`
	Result  *TaskResult `json:"result,omitempty" description:"What is kept of the answer."`
}

// TaskResult is what an agent answered.
type TaskResult struct {
	DataType int32     `json:"data_type" description:"Of the record that answered; 0 when the node says so itself."`
	Status   string    `json:"status" description:"As the agent wrote it."`
	Message  string    `json:"message"`
	At       time.Time `json:"at"`
}
