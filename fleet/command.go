// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

// Limits of what is sent to an agent.
const (
	MaxTaskDataBytes  = 128 << 10
	MaxTaskTokenBytes = 256
)

// AgentTask is work for an agent or one of its plugins, as it goes over the wire.
type AgentTask struct {
	DataType DataType `json:"data_type"`
	Name     string   `json:"name"` // the plugin, or AgentProduct
	Data     string   `json:"data"`
	Token    string   `json:"token"`
}

// AgentCommand is what is sent to an agent: a task, a whole config, or, for old
// agents, a control code.
type AgentCommand struct {
	Ctrl   int32        `json:"agent_ctrl,omitempty"`
	Task   *AgentTask   `json:"task,omitempty"`
	Config []ConfigItem `json:"config,omitempty"`
}

// Check refuses a command that says nothing (an agent would take it for an
// empty config and delete its plugins) or whose parts are malformed.
func (c AgentCommand) Check() error {
	if c.Task == nil && len(c.Config) == 0 {
		return Invalid("command", "has neither a task nor a config: an agent would delete all its plugins")
	}
	if len(c.Config) > 0 {
		if err := CheckConfig(c.Config); err != nil {
			return err
		}
	}
	if c.Task == nil {
		return nil
	}
	switch {
	case c.Task.Name == "":
		return Invalid("command.task.name", "is empty: name the plugin, or %s", AgentProduct)
	case len(c.Task.Data) > MaxTaskDataBytes:
		return Invalid("command.task.data", "is %d bytes long, at most %d are accepted", len(c.Task.Data), MaxTaskDataBytes)
	case len(c.Task.Token) > MaxTaskTokenBytes:
		return Invalid("command.task.token", "is %d bytes long, at most %d are accepted", len(c.Task.Token), MaxTaskTokenBytes)
	}
	return nil
}

// Permission is what a caller needs to give the command to agents, to run or to
// cancel a task that carries it: PermTaskRun is enough for the task of a plugin
// alone. A task for the agent itself reads any file of the host, changes what
// the agent says of it or ends the agent, and a config says what programs run:
// those change the fleet.
func (c AgentCommand) Permission() Permission {
	if c.Task == nil || c.Task.Name == AgentProduct || len(c.Config) > 0 || c.Ctrl != 0 {
		return PermFleetWrite
	}
	return PermTaskRun
}

// ExpectsReply tells whether an agent that carried out the command says so.
// Without a reply a sub-task has succeeded once it is written to the stream.
func (c AgentCommand) ExpectsReply() bool {
	if c.Task == nil {
		return false
	}
	if c.Task.Name == AgentProduct {
		return c.Task.DataType != DataTypeAgentSettings && c.Task.DataType != DataTypeAgentShutdown
	}
	return true
}
