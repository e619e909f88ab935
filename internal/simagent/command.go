// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"muster/internal/agentpb"
)

// The words of task replies.
const (
	statusSucceed = "succeed"
	statusFailed  = "failed"
)

// receive acts on commands until the stream ends or the agent's process does. ctx
// is the process's.
func (s *session) receive(ctx context.Context, conn *grpc.ClientConn) {
	for {
		command, err := s.stream.Recv()
		if err != nil {
			s.clean = errors.Is(err, io.EOF)
			if !s.clean && status.Code(err) != codes.Canceled { // neither side ended it on purpose
				s.log.Info("stream ended", "error", err)
			}
			return
		}
		if hook := s.fleet.opts.Hooks.OnCommand; hook != nil {
			hook(s.id, command)
		}
		s.mu.Lock()
		s.process.rx++
		s.mu.Unlock()
		// A task hides the config beside it.
		exit := false
		switch task := command.GetTask(); {
		case task == nil:
			exit = s.configure(command.GetConfig(), time.Now())
		case task.GetName() == Product:
			s.fleet.counters.tasks.Add(1)
			exit = s.ownTask(ctx, conn, task)
		default:
			s.fleet.counters.tasks.Add(1)
			s.pluginTask(task)
		}
		if exit {
			s.mu.Lock()
			s.process.exiting = true
			s.mu.Unlock()
			s.cancel()
			return
		}
	}
}

// configure makes the plugins what the list says, whole. It reports whether the
// agent has updated itself, which ends its process before it looks at the plugins.
func (a *agent) configure(items []*agentpb.ConfigItem, now time.Time) (updated bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.config = items
	a.configs++
	a.fleet.counters.configs.Add(1)
	if len(items) == 0 {
		a.fleet.counters.wiped.Add(1)
	}
	wanted := make(map[string]string, len(items))
	for _, item := range items {
		wanted[item.GetName()] = item.GetVersion()
	}
	if version, ok := wanted[Product]; ok && version != a.version {
		a.version = version
		a.fleet.counters.updates.Add(1)
		return true
	}
	delete(wanted, Product)
	for name := range a.plugins {
		if _, ok := wanted[name]; !ok {
			delete(a.plugins, name)
		}
	}
	for name, version := range wanted {
		if a.plugins[name].Version != version || a.plugins[name].Name == "" {
			a.plugins[name] = newRunning(Plugin{Name: name, Version: version}, now)
		}
	}
	return false
}

// ownTask does a task for the agent itself, and reports whether it ends the
// process.
func (a *agent) ownTask(ctx context.Context, conn *grpc.ClientConn, task *agentpb.Task) (exit bool) {
	switch task.GetDataType() {
	case typeUpload:
		var want uploadTask
		if err := json.Unmarshal([]byte(task.GetData()), &want); err != nil {
			a.fleet.counters.uploadFails.Add(1)
			a.fail(task.GetToken(), fmt.Sprintf("read upload task: %v", err))
			return false
		}
		want.token = task.GetToken()
		a.startUpload(ctx, conn, want)
	case typeSettings:
		a.set(task)
	case typeShutdown:
		return true
	}
	return false
}

// set takes idc and region from a 1051 task; a value of another JSON type is
// passed over, as a stock agent does. There is no reply to one that can be read.
func (a *agent) set(task *agentpb.Task) {
	var values map[string]any
	if err := json.Unmarshal([]byte(task.GetData()), &values); err != nil {
		a.log.Debug("settings task cannot be read", "error", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if idc, ok := values["idc"].(string); ok {
		a.idc = idc
	}
	if region, ok := values["region"].(string); ok {
		a.region = region
	}
}

// pluginTask answers in the plugin's place, or drops the task without a word
// when the plugin is missing or busy.
func (a *agent) pluginTask(task *agentpb.Task) {
	a.mu.Lock()
	_, loaded := a.plugins[task.GetName()]
	a.mu.Unlock()
	outcome, msg := statusSucceed, ""
	if answer := a.fleet.opts.Hooks.Answer; loaded && answer != nil {
		outcome, msg, loaded = answer(a.id, task)
	}
	if !loaded {
		a.fleet.counters.tasksDropped.Add(1)
		return
	}
	a.reply(entry{dataType: replyType(task.GetDataType()), body: replyBody(task.GetToken(), outcome, msg)}, a.addPlugin)
}

// replyType is the data type of the answer to a plugin's task.
func replyType(task int32) int32 {
	switch task {
	case typeScanPath, typeScanAll:
		return typeScanFinished
	case typeBaseline:
		return typeBaselineStatus
	}
	return typeTaskResult
}

// fail reports that the agent itself could not do a task.
func (a *agent) fail(token, msg string) {
	a.reply(entry{dataType: typeTaskResult, body: replyBody(token, statusFailed, msg)}, a.addOwn)
}

func replyBody(token, outcome, msg string) []byte {
	return appendFields(nil, "token", token, "status", outcome, "msg", msg)
}

// reply puts a task's outcome into the buffer, behind what came up before it.
func (a *agent) reply(e entry, add func(entry)) {
	now := time.Now()
	e.timestamp = now.Unix()
	a.mu.Lock()
	a.advance(now)
	add(e)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default: // it will look anyway
	}
}
