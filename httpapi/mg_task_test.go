// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/fleet"
)

func operator(body string) request { return request{as: fleet.RoleOperator, body: body} }

const scanTask = `"data":{"task":{"data_type":6053,"name":"scanner","data":"{\"exe\":\"/x\"}","token":"mine"}}`

// makeTask makes a task and returns its ID.
func (w *world) makeTask(kind, body string) string {
	w.t.Helper()
	data := w.data("POST /api/v1/agent/createTask/"+kind, operator(body)).(map[string]any)
	return data["task_id"].(string)
}

func TestTaskTargets(t *testing.T) {
	w := newWorld(t)
	fill(w, 6)
	id := w.makeTask("task", `{"tag":"t0","id_list":["a0001","a0000"],"filter":{"filter":[{"key":"agent_id","rules":[{"operator":"$eq","value":"a0005"}]}]},`+scanTask+`}`)
	var got []string
	for _, s := range w.store.subs[id] {
		got = append(got, s.AgentID)
	}
	if diff := cmp.Diff([]string{"a0000", "a0001", "a0002", "a0004", "a0005"}, got); diff != "" {
		t.Errorf("union of tag, list and filter (-want +got):\n%s", diff)
	}
	task := w.store.tasks[id]
	if task.Creator != "operator" || task.Delivery != fleet.DeliveryOnce || task.Command.Task.Token != "" || task.Run {
		t.Errorf("stored %+v", task)
	}
	all := w.makeTask("task", `{"filter":{"filter":[{"key":"agent_id","rules":[{"operator":"$ne","value":""}]}]},`+scanTask+`}`)
	if n := len(w.store.subs[all]); n != 6 {
		t.Errorf("a task for all has %d targets, want 6", n)
	}
	for body, says := range map[string]string{
		`{` + scanTask + `}`:                                                   "choose no agent",
		`{"filter":{"filter":[]},` + scanTask + `}`:                            "choose no agent",
		`{"tag":"nowhere",` + scanTask + `}`:                                   "choose no agent",
		`{"id_list":["a0001"]}`:                                                "command.task",
		`{"id_list":["a0001"],"data":{"task":{"data":"x"}}}`:                   "name",
		`{"id_list":["a0001"],"filter":{"condition":"$xor"},` + scanTask + `}`: "$xor",
		`{"id_list":["a0001"],"subtask_running_timeout":-1,` + scanTask + `}`:  "seconds",
	} {
		got := w.answer("POST /api/v1/agent/createTask/task", operator(body), 400)
		if text := got["data"].(string); got["code"] != 5.0 || !strings.Contains(text, says) {
			t.Errorf("%s: %v, want code 5 and %q", body, got, says)
		}
	}
}

// TestUnknownTargets: Elkeid's routes pass over the IDs that nobody has, as long
// as one is left; those of /v1 refuse.
func TestUnknownTargets(t *testing.T) {
	w := newWorld(t)
	fill(w, 2)
	for idList, want := range map[string]float64{`["a0000","nobody","a0001",""]`: 2, `["none","a0001","a0001"]`: 1} {
		got := w.data("POST /api/v1/agent/createTask/task", operator(`{"id_list":`+idList+`,`+scanTask+`}`)).(map[string]any)
		if got["count"] != want {
			t.Errorf("%s: %v, want %v targets", idList, got, want)
		}
	}
	if got := w.data("POST /api/v1/agent/createTask/task", operator(`{"tag":"t1","id_list":["nobody"],`+scanTask+`}`)).(map[string]any); got["count"] != 1.0 {
		t.Errorf("a tag, and an unknown ID: %v, want 1 target", got)
	}
	before := len(w.store.tasks)
	got := w.answer("POST /api/v1/agent/createTask/task", operator(`{"id_list":["nobody","none"],`+scanTask+`}`), 200)
	if got["code"] != 3.0 || !strings.Contains(got["data"].(string), "nobody") {
		t.Errorf("unknown agents alone: %v, want code 3", got)
	}
	if rec := w.do("POST /v1/tasks", operator(`{"agents":["a0001","nobody"],"command":{"task":{"data_type":6053,"name":"scanner"}}}`)); rec.Code != 404 {
		t.Errorf("/v1 with an unknown agent: %d %s, want 404", rec.Code, rec.Body)
	}
	if len(w.store.tasks) != before {
		t.Errorf("%d tasks, want %d", len(w.store.tasks), before)
	}
}

// TestTaskLife walks a task through everything that it can become and looks at
// it in Elkeid's shape at each step.
func TestTaskLife(t *testing.T) {
	w := newWorld(t)
	fill(w, 4)
	id := w.makeTask("task", `{"id_list":["a0000","a0001","a0002","a0003"],"task_name":"scan","action":"scan","subtask_running_timeout":600,`+scanTask+`}`)
	w.fixIDs("task_created", "GET /api/v1/agent/getTask/"+id, id)

	run := w.data("POST /api/v1/agent/controlTask", operator(`{"task_id":"`+id+`","action":"run","rolling_percent":0.75,"concurrence":10}`)).(map[string]any)
	if run["taskID"] != id || run["id_count"] != 3.0 || run["jobID"] == "" {
		t.Errorf("run: %v, want 3 released", run)
	}
	w.pass(time.Minute)
	subs := w.store.subs[id]
	answer := func(i int, state fleet.SubTaskState, status string) {
		subs[i].State = state
		subs[i].Result = &fleet.TaskResult{DataType: fleet.DataTypeTaskResult, Status: status, Message: "text " + status, At: start.Unix() + 50}
	}
	answer(0, fleet.SubTaskSucceeded, "succeed")
	answer(1, fleet.SubTaskFailed, "failed")
	subs[2].State = fleet.SubTaskSent
	w.store.counted(id)
	w.fixIDs("task_running", "GET /api/v1/agent/getTask/"+id, id, run["jobID"].(string))
	w.fixIDs("subtasks", "GET /api/v1/agent/getSubTask/"+id, id, run["jobID"].(string))

	if got := w.data("POST /api/v1/agent/controlTask", operator(`{"task_id":"`+id+`","action":"cancel"}`)); got.(map[string]any)["taskID"] != id {
		t.Errorf("cancel: %v", got)
	}
	if got := w.answer("POST /api/v1/agent/controlTask", operator(`{"task_id":"`+id+`","action":"cancel"}`), 200); got["code"] != 10.0 {
		t.Errorf("cancel again: %v, want code 10", got)
	}
	task := w.data("GET /api/v1/agent/getTask/"+id, operator("")).(map[string]any)
	if task["task_status"] != "cancelled" || task["inner_status"] != "cancelled" || task["sub_task_failed"] != 3.0 {
		t.Errorf("after cancel: %v", task)
	}
}

// TestTargetsShown: a task with few targets lists them, whatever became of them;
// one with many lists those that wait.
func TestTargetsShown(t *testing.T) {
	w := newWorld(t)
	fill(w, 1001)
	const all = `"filter":{"filter":[{"key":"agent_id","rules":[{"operator":"$gte","value":"FROM"}]}]},`
	for from, want := range map[string]int{"a0001": 1000, "a0000": 0} {
		id := w.makeTask("task", `{`+strings.Replace(all, "FROM", from, 1)+scanTask+`}`)
		for i, percent := range []string{"0.1", "1"} {
			w.data("POST /api/v1/agent/controlTask", operator(`{"task_id":"`+id+`","action":"run","rolling_percent":`+percent+`,"concurrence":10}`))
			task := w.data("GET /api/v1/agent/getTask/"+id, operator("")).(map[string]any)
			if n := len(task["id_list"].([]any)); n != want {
				t.Errorf("from %s: id_list has %d, want %d", from, n, want)
			}
			if n := len(task["todo_list"].([]any)); (n == 0) != (i == 1) {
				t.Errorf("from %s, run for %s: todo_list has %d", from, percent, n)
			}
		}
	}
}

// TestSubTaskToken: each part shows the command as its agent gets it.
func TestSubTaskToken(t *testing.T) {
	w := newWorld(t)
	fill(w, 2)
	id := w.makeTask("task", `{"id_list":["a0000","a0001"],`+scanTask+`}`)
	w.makeTask("config", `{"id_list":["a0000"],"data":{"config":[{"name":"driver"}]}}`)
	const byTask = `{"filter":[{"key":"task_id","rules":[{"operator":"$eq","value":"TASK"}]}]}`
	page := w.data("POST /api/v1/agent/getSubTask/filter", operator(strings.Replace(byTask, "TASK", id, 1))).(map[string]any)
	for name, parts := range map[string]any{"filter": page["items"], "list": w.data("GET /api/v1/agent/getSubTask/"+id, operator(""))} {
		var got []any
		for _, part := range parts.([]any) {
			command := part.(map[string]any)["task_data"].(map[string]any)["command"].(map[string]any)
			got = append(got, command["task"].(map[string]any)["token"])
		}
		equal(t, name, []any{w.store.subs[id][0].Token, w.store.subs[id][1].Token}, got)
	}
	if w.store.tasks[id].Command.Task.Token != "" {
		t.Error("showing a part has changed the stored task")
	}
	if n := w.data("POST /api/v1/agent/getSubTask/filter", operator(`{}`)).(map[string]any)["total"]; n != 3.0 {
		t.Errorf("%v parts of all tasks, want 3", n)
	}
}

// fixIDs compares an answer with its golden file, with IDs that differ from run
// to run replaced.
func (w *world) fixIDs(name, call string, ids ...string) {
	w.t.Helper()
	rec := w.do(call, operator(""))
	text := rec.Body.String()
	for i, id := range ids {
		text = strings.ReplaceAll(text, id, "ID"+string(rune('1'+i)))
	}
	rec.Body.Reset()
	rec.Body.WriteString(text)
	w.golden(name, rec)
}

// TestSubTaskWords: every state has a word that Elkeid's clients know.
func TestSubTaskWords(t *testing.T) {
	answered := &fleet.TaskResult{DataType: fleet.DataTypeTaskResult}
	byNode := &fleet.TaskResult{Message: "not sent"}
	restart := `{"id_list":["a0000"],"data":{"task":{"data_type":1060,"name":"elkeid-agent"}}}`
	scan := `{"id_list":["a0000"],` + scanTask + `}`
	for _, tt := range []struct {
		task   string
		state  fleet.SubTaskState
		result *fleet.TaskResult
		want   string
	}{
		{scan, fleet.SubTaskWaiting, nil, "created"},
		{scan, fleet.SubTaskPending, nil, "running"},
		{scan, fleet.SubTaskSent, nil, "succeed"},
		{scan, fleet.SubTaskSucceeded, answered, "result_succeed"},
		{scan, fleet.SubTaskSucceeded, nil, "result_succeed"},
		{scan, fleet.SubTaskFailed, answered, "result_failed"},
		{scan, fleet.SubTaskFailed, byNode, "failed"},
		{scan, fleet.SubTaskUnknown, nil, "failed"},
		{scan, fleet.SubTaskExpired, nil, "failed"},
		{scan, fleet.SubTaskCancelled, nil, "failed"},
		{restart, fleet.SubTaskSucceeded, nil, "succeed"},
	} {
		w := newWorld(t)
		fill(w, 1)
		id := w.makeTask("task", tt.task)
		w.store.subs[id][0].State, w.store.subs[id][0].Result = tt.state, tt.result
		items := w.data("GET /api/v1/agent/getSubTask/"+id, operator("")).([]any)
		if got := items[0].(map[string]any)["status"]; got != tt.want {
			t.Errorf("%s with %+v: %v, want %s", tt.state, tt.result, got, tt.want)
		}
	}
}

func TestTaskSearch(t *testing.T) {
	w := newWorld(t)
	fill(w, 3)
	var ids []string
	for _, name := range []string{"one", "two", "three"} {
		ids = append(ids, w.makeTask("task", `{"id_list":["a0000","a0002"],"task_name":"`+name+`",`+scanTask+`}`))
		w.pass(time.Second)
	}
	names := func(call, filter string) (out []string) {
		for _, item := range w.data(call, operator(filter)).(map[string]any)["items"].([]any) {
			doc := item.(map[string]any)
			if todo := doc["todo_list"].([]any); len(todo) != 0 {
				t.Errorf("todo_list in a list: %v", todo)
			}
			out = append(out, doc["task_name"].(string))
		}
		return out
	}
	const call = "POST /api/v1/agent/getTask/filter"
	for filter, want := range map[string][]string{
		`{}`: {"three", "two", "one"},
		`{"filter":[{"key":"task_name","rules":[{"operator":"$regex","value":"^t"}]}]}`:        {"three", "two"},
		`{"filter":[{"key":"data.task.data_type","rules":[{"operator":"$eq","value":6053}]}]}`: {"three", "two", "one"},
		`{"filter":[{"key":"task_status","rules":[{"operator":"$ne","value":"created"}]}]}`:    nil,
		`{"filter":[{"key":"create_time","rules":[{"operator":"$gt","value":1773480413}]}]}`:   {"three", "two"},
	} {
		if diff := cmp.Diff(want, names(call, filter)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", filter, diff)
		}
	}
	if diff := cmp.Diff([]string{"two"}, names(call+"?order_key=create_time&order_value=1&page=2&page_size=1", `{}`)); diff != "" {
		t.Errorf("second oldest (-want +got):\n%s", diff)
	}
	subs := func(query, filter string) int {
		return int(w.data("POST /api/v1/agent/getSubTask/filter"+query, operator(filter)).(map[string]any)["total"].(float64))
	}
	token := w.store.subs[ids[1]][1].Token
	for filter, want := range map[string]int{
		`{}`: 6,
		`{"filter":[{"key":"task_id","rules":[{"operator":"$eq","value":"` + ids[1] + `"}]}]}`: 2,
		`{"filter":[{"key":"task_id","rules":[{"operator":"$eq","value":"none"}]}]}`:           0,
		`{"filter":[{"key":"token","rules":[{"operator":"$eq","value":"` + token + `"}]}]}`:    1,
		`{"filter":[{"key":"token","rules":[{"operator":"$eq","value":"no token"}]}]}`:         0,
		`{"filter":[{"key":"agent_id","rules":[{"operator":"$eq","value":"a0002"}]}]}`:         3,
		`{"filter":[{"key":"status","rules":[{"operator":"$in","value":["failed"]}]}]}`:        0,
	} {
		if got := subs("?order_key=agent_id&order_value=-1", filter); got != want {
			t.Errorf("sub-tasks %s: %d, want %d", filter, got, want)
		}
	}
}

func TestUnknownTask(t *testing.T) {
	w := newWorld(t)
	w.golden("task_unknown", w.do("GET /api/v1/agent/getTask/none", operator("")))
	if got := w.data("GET /api/v1/agent/getSubTask/none", operator("")).([]any); len(got) != 0 {
		t.Errorf("parts of an unknown task: %v, want []", got)
	}
	if got := w.answer("POST /api/v1/agent/controlTask", operator(`{"task_id":"none","action":"run","rolling_percent":1,"concurrence":1}`), 200); got["code"] != 3.0 {
		t.Errorf("run an unknown task: %v, want code 3", got)
	}
}

func TestControlRefusals(t *testing.T) {
	w := newWorld(t)
	for _, body := range []string{
		`{"action":"run","rolling_percent":1,"concurrence":1}`, `{"task_id":"x","action":"stop"}`,
		`{"task_id":"x","action":"run","rolling_percent":0,"concurrence":1}`, `{"task_id":"x","action":"run","rolling_percent":1.1,"concurrence":1}`,
		`{"task_id":"x","action":"run","rolling_percent":1,"concurrence":0}`, `{"task_id":"x","action":"run","rolling_percent":1,"concurrence":1000}`,
	} {
		if got := w.answer("POST /api/v1/agent/controlTask", operator(body), 400); got["code"] != 5.0 {
			t.Errorf("%s: %v, want code 5", body, got)
		}
	}
}

func TestConfigTask(t *testing.T) {
	w := newWorld(t)
	fill(w, 1)
	id := w.makeTask("config", `{"id_list":["a0000"],"data":{"config":[{"name":"driver","version":"2"}]}}`)
	if task := w.store.tasks[id]; task.Kind != fleet.TaskKindConfig || len(task.Command.Config) != 1 {
		t.Errorf("stored %+v", task)
	}
	for _, config := range []string{`[]`, `[{"nam":"driver"}]`, `null`} {
		if got := w.answer("POST /api/v1/agent/createTask/config", operator(`{"id_list":["a0000"],"data":{"config":`+config+`}}`), 400); got["code"] != 5.0 {
			t.Errorf("config %s: %v, want code 5", config, got)
		}
	}
}

func TestQuickTask(t *testing.T) {
	w := newWorld(t)
	fill(w, 1) // a0000 is offline: it gets its task later
	const body = `{"agent_id":"a0000","command":{"task":{"name":"elkeid-agent","data":"","data_type":1060}}}`
	if got := w.data("POST /api/v1/agent/quickTask/task", operator(body)); got != "" {
		t.Errorf("without token=true: %v, want an empty text", got)
	}
	id := w.data("POST /api/v1/agent/quickTask/task?token=true&timeout=90", operator(body)).(string)
	if task := w.store.tasks[id]; task.Seconds != 90 || !task.Run || task.Status != fleet.TaskRunning {
		t.Errorf("stored %+v", task)
	}
	if !regexp.MustCompile(`^[0-9]{19}[a-z]{6}$`).MatchString(id) {
		t.Errorf("ID %q does not sort by time", id)
	}
	for query, body := range map[string]string{
		"?timeout=x": body, "?timeout=-1": body, "?timeout=99999999": body,
		"": `{"agent_id":"","command":{"task":{"name":"x"}}}`, "?": `{"agent_id":"a0000","command":{}}`,
	} {
		if got := w.answer("POST /api/v1/agent/quickTask/task"+query, operator(body), 400); got["code"] != 5.0 {
			t.Errorf("%s %s: %v, want code 5", query, body, got)
		}
	}
	if rec := w.do("POST /api/v1/agent/quickTask/task", request{as: fleet.RoleViewer, body: body}); rec.Code != 403 {
		t.Errorf("as a viewer: %d, want 403", rec.Code)
	}
}

// TestWritesWhileAway: what the store cannot do now is said as such.
func TestWritesWhileAway(t *testing.T) {
	for err, want := range map[error]struct{ status, code int }{
		fleet.ErrUnavailable: {503, 7}, fleet.ErrNotVisible: {504, 11}, fleet.ErrTimeout: {504, 11},
	} {
		w := newWorld(t)
		fill(w, 1)
		w.store.err = err
		rec := w.do("POST /api/v1/agent/createTask/task", operator(`{"id_list":["a0000"],`+scanTask+`}`))
		var body struct{ Code int }
		if json.Unmarshal(rec.Body.Bytes(), &body) != nil || rec.Code != want.status || body.Code != want.code {
			t.Errorf("%v: %d %s, want %v", err, rec.Code, rec.Body, want)
		}
	}
}
