// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"muster/fleet"
)

const (
	// commandTimeout is how long POST /command/ waits until the command is
	// written to the agent's stream.
	commandTimeout = 5 * time.Second
	maxResets      = 20000
)

// connRoutes are the routes of Elkeid's AgentCenter: about the streams of this
// node, as there.
func (a *API) connRoutes() []Route {
	route := func(method, path string, p fleet.Permission, summary string, h handlerFunc) Route {
		return Route{
			Method: method, Path: path, Listeners: listenersAPI,
			Access: permitOrSigned(p, fleet.KeyScopeAgents), Summary: summary, handle: h,
		}
	}
	return []Route{
		route(http.MethodGet, "/conn/count", fleet.PermFleetRead, "How many agents have a stream to this node.", a.connCount),
		heavy(route(http.MethodGet, "/conn/list", fleet.PermFleetRead, "The agents with a stream to this node.", a.connList)),
		heavy(route(http.MethodGet, "/conn/stat", fleet.PermFleetRead, "The last heartbeats on this node's streams.", a.connStat)),
		route(http.MethodPost, "/conn/reset", fleet.PermFleetWrite, "Close streams; their agents come back.", a.connReset),
		route(http.MethodPost, "/command", fleet.PermTaskRun, "Send a command to an agent that has a stream, whichever node holds it.", a.command),
		route(http.MethodPost, "/command/", fleet.PermTaskRun, "The same.", a.command),
	}
}

func succeedAC(w http.ResponseWriter, data any) error {
	writeACEnvelope(w, http.StatusOK, acSuccess, data)
	return nil
}

func (a *API) connCount(w http.ResponseWriter, _ *http.Request, _ *call) error {
	return succeedAC(w, a.opts.Live.Sessions.SessionCount())
}

func (a *API) connList(w http.ResponseWriter, _ *http.Request, _ *call) error {
	return succeedAC(w, nonNil(a.opts.Live.Sessions.SessionIDs()))
}

// connStatus is one stream of /conn/stat.
type connStatus struct {
	AgentInfo   map[string]any   `json:"agent_info"`
	PluginsInfo []map[string]any `json:"plugins_info"`
}

func (a *API) connStat(w http.ResponseWriter, _ *http.Request, _ *call) error {
	sessions := a.opts.Live.Sessions.Sessions()
	stats := make([]connStatus, 0, len(sessions))
	for _, s := range sessions {
		stats = append(stats, connStatus{AgentInfo: sessionInfo(s), PluginsInfo: pluginDocs(s.Plugins)})
	}
	return succeedAC(w, stats)
}

// sessionInfo is a stream's last heartbeat with whose it is.
func sessionInfo(s fleet.Session) map[string]any {
	info := make(map[string]any, len(s.Heartbeat)+12)
	for field, value := range s.Heartbeat {
		info[field] = fleet.HeartbeatValue(field, value)
	}
	info["agent_id"], info["agent_addr"], info["create_at"] = s.AgentID, s.RemoteAddr, s.ConnectedAt
	info["hostname"], info["version"], info["product"] = s.Hostname, s.Version, s.Product
	info["intranet_ipv4"], info["intranet_ipv6"] = nonNil(s.IntranetIPv4), nonNil(s.IntranetIPv6)
	info["extranet_ipv4"], info["extranet_ipv6"] = nonNil(s.ExtranetIPv4), nonNil(s.ExtranetIPv6)
	info["last_heartbeat_time"] = s.HeartbeatAt
	return info
}

func (a *API) connReset(w http.ResponseWriter, r *http.Request, _ *call) error {
	var b struct {
		Type   string   `json:"type"`
		IDList []string `json:"id_list"`
		Count  int      `json:"count"`
	}
	if err := decodeJSON(r, &b); err != nil {
		return err
	}
	ids := b.IDList
	switch b.Type {
	case "strict":
		if len(ids) == 0 || len(ids) > maxResets {
			return fleet.Invalid("id_list", "holds %d IDs, 1 to %d are accepted", len(ids), maxResets)
		}
	case "random":
		if b.Count < 1 || b.Count > maxResets {
			return fleet.Invalid("count", "%d is not between 1 and %d", b.Count, maxResets)
		}
		ids = a.opts.Live.Sessions.SessionIDs()
		rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		ids = ids[:min(len(ids), b.Count)]
	default:
		return fleet.Invalid("type", "%.20q is none of strict, random", b.Type)
	}
	detail, closed := make(map[string]string, len(ids)), 0
	for id, err := range a.opts.Live.Streams.Reset(ids) {
		if err != nil {
			detail[id] = outcomeOf(err).hint
			continue
		}
		detail[id] = "ok"
		closed++
	}
	return succeedAC(w, map[string]any{"count": closed, "detail": detail})
}

// commandBody is the body of /command/ and of quickTask.
type commandBody struct {
	AgentID string      `json:"agent_id"`
	Command agentAction `json:"command"`
}

// agentAction is what is to be sent, in Elkeid's words.
type agentAction struct {
	Ctrl   int32            `json:"agent_ctrl"`
	Task   *fleet.AgentTask `json:"task"`
	Config configItems      `json:"config"`
}

// command stores the command as a task and answers once the stream's holder has
// written it. After an answer other than 0 nothing is sent any more.
func (a *API) command(w http.ResponseWriter, r *http.Request, c *call) error {
	var b commandBody
	if err := decodeJSON(r, &b); err != nil {
		return err
	}
	if err := fleet.CheckAgentID(b.AgentID); err != nil {
		return err
	}
	task := fleet.NewTask{
		ID: newID(a.opts.Now()), Name: "command", Action: "command", Kind: fleet.TaskKindCommand,
		Command: fleet.AgentCommand{Ctrl: b.Command.Ctrl, Task: b.Command.Task, Config: b.Command.Config},
		Creator: c.caller.name(), Delivery: fleet.DeliveryOnce, Run: true, KeepResults: true,
	}
	if err := task.Check(); err != nil {
		return err
	}
	if err := a.permitCommand(c.caller, task.Command); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(r.Context(), commandTimeout)
	defer stop()
	k := a.ask()
	session, holder, err := k.holder(ctx, b.AgentID)
	k.note(w)
	if err != nil {
		return err
	}
	if session == nil {
		writeACEnvelope(w, http.StatusOK, acUnknown, "agentID not found")
		return nil
	}
	if _, _, err := a.resolveAgents(ctx, []string{b.AgentID}); err != nil {
		return err
	}
	if err := a.sendNow(ctx, task, b.AgentID, holder); err != nil {
		return err
	}
	return succeedAC(w, nil)
}

// sendNow creates the task and waits until its command is written by the node
// that holds the agent's stream; nil is this one.
func (a *API) sendNow(ctx context.Context, task fleet.NewTask, agentID string, holder *Peer) error {
	wait, cancel, err := a.awaitWritten(ctx, task.ID, holder)
	if err != nil {
		return err // nothing was stored
	}
	_, err = a.opts.State.Tasks.CreateTask(ctx, task, []string{agentID})
	stored := err == nil
	if stored {
		err = wait(ctx)
	}
	if written := cancel(); written || err == nil { // it may be written after all
		return nil
	}
	if refused, ok := errors.AsType[*fleet.Refusal](err); ok && !stored {
		return refused
	}
	failCtx, stopFail := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer stopFail()
	failed := a.opts.State.TaskControl.FailTask(failCtx, task.ID, "not written to the agent's stream within 5 s")
	if failed != nil && !errors.Is(failed, fleet.ErrNotFound) {
		a.log.Warn("command not sent, and its task not ended", "task_id", task.ID, "error", failed)
	}
	if errors.Is(err, context.DeadlineExceeded) || stored && holder != nil {
		return fleet.Refuse(fleet.CodeConflict, "the command was not written to the agent's stream within 5 s; it will not be sent")
	}
	return fmt.Errorf("send command: %w", err)
}

// awaitWritten prepares the holder of an agent's stream for the task.
func (a *API) awaitWritten(ctx context.Context, taskID string, holder *Peer) (wait func(context.Context) error, cancel func() bool, err error) {
	if holder == nil {
		wait, cancel = a.opts.Live.Streams.AwaitWritten(taskID)
		return wait, cancel, nil
	}
	wait, cancel, err = holder.Calls.Await(ctx, taskID)
	if err != nil {
		a.log.Info("command refused: the node that holds the agent's stream does not answer", "node", holder.Name, "error", err)
		return nil, nil, fleet.Refuse(fleet.CodeConflict, "node %s, which holds the agent's stream, does not answer: nothing was sent", holder.Name)
	}
	return wait, cancel, nil
}
