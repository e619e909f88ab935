// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"muster/internal/apiv1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var now = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

func TestOutput(t *testing.T) {
	for name, args := range map[string][]string{
		"status": {"status"}, "nodes": {"node", "list"}, "node": {"node", "show", "n1"}, "node-states": {"node", "state"},
		"agents": {"agent", "list"}, "agent": {"agent", "show", "a1"}, "default-config": {"agent", "default-config", "get"},
		"tags": {"tag", "list"}, "tasks": {"task", "list"}, "task": {"task", "show", "17734a"}, "task-agents": {"task", "agents", "17734a"},
		"services": {"service", "list"}, "users": {"user", "list"}, "tokens": {"token", "list"}, "keys": {"key", "list"},
	} {
		for _, format := range []string{"table", "json", "yaml"} {
			t.Run(name+"/"+format, func(t *testing.T) {
				r := newFakeNode(t, someAnswers()).muster(t, "", append(args, "-o", format)...)
				if r.code != exitOK || r.err != "" {
					t.Fatalf("exit code %d: %s", r.code, r.err)
				}
				if strings.ContainsRune(r.out, '\x1b') {
					t.Errorf("what an agent wrote reaches the terminal: %q", r.out)
				}
				if format == "json" && !json.Valid([]byte(r.out)) {
					t.Errorf("not JSON: %s", r.out)
				}
				golden(t, name+"."+strings.Replace(format, "table", "txt", 1), r.out)
			})
		}
	}
}

func TestRequests(t *testing.T) {
	file := func(content string) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	ids := file("a3\n a4\n")
	password := file("long enough\r\n")
	config := file("version: '1'\nconfig:\n- name: driver\n  download_url: [https://x/y]\n")
	items := file(`[{"name":"driver"}]`)
	tests := []struct {
		args  string
		stdin string
		asked string
		out   string
	}{
		{"agent list --state offline --tag eu/west --hostname web --q 10.0 --limit 5", "", "GET /v1/agents?hostname=web&limit=6&q=10.0&state=offline&tag=eu%2Fwest", ""},
		{"agent reset a1", "", "POST /v1/agents/a1/reset", "Closed 1 stream."},
		{"agent default-config set --file " + config, "", `PUT /v1/config/default {"version":"1","config":[{"name":"driver","download_url":["https://x/y"]}]}`, "The default config has 1 item now, revision 8."},
		{"agent default-config set --file -", `{"config":[{"name":"x"}]}`, `PUT /v1/config/default {"config":[{"name":"x"}]}`, ""},
		{"node state n1~0a", "", "GET /v1/nodes/n1~0a/state", ""},
		{"node drain n3", "", "POST /v1/nodes/n3/drain", "Node n3 is dead: there is nothing to wait for. When it comes back it takes no agents, until: muster node undrain n3"},
		{"node drain n4 --force --no-wait", "", "POST /v1/nodes/n4/drain?force=true", "Node n4 empties itself; it holds 0 agents. See how far it is: muster node show n4"},
		{"node drain n4", "", "POST /v1/nodes/n4/drain", "Node n4 is empty and the cluster goes on without it: it is safe to stop it. When it is back: muster node undrain n4"},
		{"node undrain n1", "", "POST /v1/nodes/n1/undrain", "Node n1 takes agents again; they come by themselves, within minutes."},
		{"node undrain n3", "", "POST /v1/nodes/n3/undrain", "Node n3 is dead; it takes agents when it comes back."},
		{"service list --name leader --limit 7", "", "GET /v1/services?limit=8&name=leader", ""},
		{"node remove n3", "", "DELETE /v1/nodes/n3", "Node n3 is removed; the cluster has 2 voters. Delete its data directory."},
		{"node remove n3 --force -o json", "", "DELETE /v1/nodes/n3?force=true", "{\n  \"node\": \"n3\",\n  \"server_id\": \"n3~0c\",\n  \"voters\": 2,\n  \"next\": \"Delete its data directory.\"\n}"},
		{"tag add web a1 a2 --ids-file " + ids, "", `POST /v1/tags/web/agents {"add":["a1","a2","a3","a4"]}`, "Changed 2 of 4 agents."},
		{"tag del web a1", "", `POST /v1/tags/web/agents {"remove":["a1"]}`, ""},
		{"task create --agent a1 --agent a2 --plugin scanner --data-type 6053 --data /usr --name scan", "", `POST /v1/tasks {"name":"scan","agents":["a1","a2"],"command":{"task":{"data_type":6053,"name":"scanner","data":"/usr"}},"delivery":"once","seconds":86400}`, "Task 17734a for 3 agents; watch it: muster task show 17734a"},
		{"task create --tag web --config-file " + items + " --hold --delivery retry --deadline 10m --keep-results", "", `POST /v1/tasks {"tag":"web","command":{"config":[{"name":"driver"}]},"delivery":"retry","seconds":600,"hold":true,"keep_results":true}`, "Task 17734a for 3 agents; run it: muster task run 17734a"},
		{"task create --all --config-file " + config, "", `POST /v1/tasks {"all":true,"command":{"config":[{"name":"driver","download_url":["https://x/y"]}]},"delivery":"once","seconds":86400}`, ""},
		{"task create --all --plugin p --data-type 1 --data-file -", "from stdin", `POST /v1/tasks {"all":true,"command":{"task":{"data_type":1,"name":"p","data":"from stdin"}},"delivery":"once","seconds":86400}`, ""},
		{"task run 17734a --percent 50 --concurrence 10", "", `POST /v1/tasks/17734a/run {"percent":0.5,"concurrence":10}`, "Task 17734a is running, 0 of 3 agents not released yet."},
		{"task cancel 17734a", "", "POST /v1/tasks/17734a/cancel", ""},
		{"user add eve --role viewer --password-file " + password, "", `POST /v1/users {"name":"eve","password":"long enough","role":"viewer"}`, "User eve is viewer."},
		{"user add eve --role 3 --password-file -", "from stdin\n", `POST /v1/users {"name":"eve","password":"from stdin","level":3}`, ""},
		{"user passwd eve --password-file - --current-password-file " + password, "new one\n", `PATCH /v1/users/eve {"password":"new one","current_password":"long enough"}`, "The password of eve is changed; its other tokens have ended."},
		{"user set-level eve operator", "", `PATCH /v1/users/eve {"role":"operator"}`, ""},
		{"user set-level eve 2", "", `PATCH /v1/users/eve {"level":2}`, ""},
		{"user del eve", "", "DELETE /v1/users/eve", "User eve is deleted."},
		{"user del eve -o json", "", "DELETE /v1/users/eve", "{\n  \"deleted\": \"eve\"\n}"},
		{"token list --all", "", "GET /v1/tokens?all=true&limit=1000", ""},
		{"token revoke t1", "", "DELETE /v1/tokens/t1", "Token t1 has ended."},
		{"token new --user eve --password-file - --out - --name ci --role viewer --expires 1h", "pw", `POST /v1/tokens {"username":"eve","password":"pw","name":"ci","role":"viewer","expires_in":3600}`, "s3cret"},
		{"key add --scope sd --import-file -", "AK:SK\n", `POST /v1/keys {"scope":"sd","import":"AK:SK"}`, ""},
		{"key del ak1", "", "DELETE /v1/keys/ak1", ""},
	}
	for _, tt := range tests {
		t.Run(strings.Join(strings.Fields(tt.args)[:2], " "), func(t *testing.T) {
			f := newFakeNode(t, someAnswers())
			r := f.muster(t, tt.stdin, strings.Fields(tt.args)...)
			if r.code != exitOK || r.err != "" && !strings.HasPrefix(tt.args, "key add") && !strings.Contains(r.err, "warning") {
				t.Fatalf("exit code %d: %s", r.code, r.err)
			}
			asked := f.asked
			if strings.HasPrefix(tt.args, "task create") {
				asked = asked[:1] // then it looks for the plugin: TestUnreportedPlugin
			}
			if diff := cmp.Diff([]string{tt.asked}, asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			if tt.out != "" && strings.TrimSpace(r.out) != tt.out {
				t.Errorf("printed %q, want %q", r.out, tt.out)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	f := newFakeNode(t, map[string]any{
		"GET /v1/users":            apiv1.Problem{Status: 401, Code: "unauthenticated", Detail: "a valid token is needed"},
		"GET /v1/nodes":            apiv1.Problem{Status: 403, Code: "forbidden", Detail: "credentials are not taken over plain HTTP: use https"},
		"DELETE /v1/nodes/n2":      apiv1.Problem{Status: 409, Code: "conflict", Detail: "node n2 is alive: repeat with ?force=true"},
		"POST /v1/nodes/n1/drain":  apiv1.Problem{Status: 409, Code: "conflict", Detail: "no other node can take agents"},
		"POST /v1/tags/y/agents":   apiv1.TagResult{Unknown: []string{"nope"}},
		"GET /v1/keys":             apiv1.Problem{Status: 403, Code: "forbidden", Detail: "this needs admin"},
		"POST /v1/tokens":          apiv1.Problem{Status: 401, Code: "unauthenticated", Detail: "wrong"},
		"POST /v1/tags/x/agents":   apiv1.TagResult{Changed: 1, Unknown: []string{"a9"}},
		"POST /v1/tasks/1/run":     apiv1.Problem{Status: 409, Code: "conflict", Detail: "it has\nended"},
		"GET /v1/tags":             apiv1.Page[apiv1.Tag]{Items: []apiv1.Tag{{Tag: "a"}, {Tag: "b"}}, Next: "b"},
		"POST /v1/agents/a1/reset": nil,
	})
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args string
		code int
		err  string
	}{
		{"user list", 1, "a valid token is needed (make a token: muster token new --user NAME --password-file FILE)"},
		{"key list", 1, "this needs admin (see whose token this is: muster token list)"},
		{"token new --user eve --password-file - --out -", 1, "log in as eve: wrong user name or password"},
		{"node list", 1, "plain HTTP: use https\n"},
		{"node remove n2", 1, "alive: repeat with ?force=true"},
		{"node state n9", 1, "there is no /v1/nodes/n9/state"},
		{"node remove", 2, "<name>"},
		{"node drain", 2, "<name>"},
		{"node drain n1 --every 0s", 2, "above 0"},
		{"node drain n1", 1, "no other node can take agents"},
		{"node undrain n9", 1, "there is no /v1/nodes/n9/undrain"},
		{"node watch", 1, "plain HTTP: use https\n"},
		{"tag add y nope", 1, "no agent has the ID nope\n"},
		{"tag add x a1 a9", 1, "no agent has the ID a9"},
		{"task run 1", 1, "it has ended"},
		{"task show 1", 1, "there is no /v1/tasks/1"},
		{"tag list --limit 1", 0, "these are the first 1; --limit 0 prints all"},
		{"status --addr http://127.0.0.1:1", 1, "is the node running"},
		{"status --ca /nowhere", 1, "read --ca"},
		{"status --ca " + empty, 1, "holds no certificate in PEM"},
		{"status --token-file /nowhere", 1, "there is no token file /nowhere: make one: muster token new --user NAME --password-file FILE --out /nowhere"},
		{"status --token-file " + empty, 1, "is empty"},
		{"agent default-config set --file " + os.Args[0], 1, "neither JSON nor YAML"},

		{"", 2, "see: muster --help"},
		{"nonsense", 2, "nonsense"},
		{"agent lst", 2, "did you mean"},
		{"agent list --sate offline", 2, "--sate"},
		{"agent list --state dead", 2, "--state"},
		{"agent list --limit -1", 2, "--limit"},
		{"agent show", 2, "<id>"},
		{"status -o xml", 2, "--output"},
		{"status --addr ftp://x", 2, "is not a URL like"},
		{"tag add x", 2, "no agents"},
		{"task create --plugin p --data-type 1", 2, "no agents"},
		{"task create --all", 2, "no work"},
		{"task create --all --tag x --plugin p --data-type 1", 2, "can't be used together"},
		{"task run 1 --percent 101", 2, "--percent"},
		{"task run 1 --percent 0", 2, "--percent"},
		{"user add eve", 2, "--role"},
		{"user add eve --role god", 2, "god"},
		{"user add eve --role viewer", 2, "no password"},
		{"pki agent-bundle --out x", 2, "--name NAME for all agents, or --agent-id ID"},
		{"pki agent-bundle --out x --name a --agent-id b", 2, "can't be used together"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			r := f.muster(t, "wrong", strings.Fields(tt.args)...)
			if r.code != tt.code || !strings.Contains(r.err, tt.err) {
				t.Errorf("exit code %d, %q; want %d, %q", r.code, r.err, tt.code, tt.err)
			}
			if tt.args == "tag add y nope" && r.out != "" {
				t.Errorf("printed %q before the error", r.out)
			}
			if strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, "muster: ") {
				t.Errorf("not one line: %q", r.err)
			}
		})
	}
}

func TestTokenFiles(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	f := newFakeNode(t, someAnswers())
	if r := f.muster(t, "", "tag", "list"); r.code != exitOK { // no file: the node decides
		t.Fatal(r.err)
	}
	r := f.muster(t, "pw", "token", "new", "--user", "eve", "--password-file", "-")
	file := filepath.Join(home, "muster", "token")
	if r.code != exitOK || !strings.Contains(r.out, file) || strings.Contains(r.out, "s3cret") {
		t.Fatalf("%+v", r)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	f.muster(t, "", "tag", "list")
	if err := os.WriteFile(filepath.Join(home, "other"), []byte("0ther"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.muster(t, "", "tag", "list", "--token-file", filepath.Join(home, "other"))
	f.muster(t, "pw", "token", "new", "--user", "eve", "--password-file", "-", "--out", filepath.Join(home, "deep", "er", "t"))
	f.muster(t, "", "token", "new", "--out", "-", "-o", "json") // with the token of the file
	// A log-in sends no old token along.
	want := []string{"", "", "Bearer s3cret", "Bearer 0ther", "", "Bearer s3cret"}
	if diff := cmp.Diff(want, f.tokens); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
	if b, err := os.ReadFile(filepath.Join(home, "deep", "er", "t")); err != nil || string(b) != "s3cret\n" {
		t.Errorf("%q, %v", b, err)
	}
	left, _ := filepath.Glob(filepath.Join(home, "*", ".muster-*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPasswordOfEnvironment(t *testing.T) {
	f := newFakeNode(t, someAnswers())
	t.Setenv("MUSTER_ADDR", f.URL)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("MUSTER_PASSWORD", "of the environment")
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"token", "new", "--user", "eve", "--out", "-"}, streams{strings.NewReader(""), &out, &errs, time.Now})
	if code != exitOK || !strings.Contains(fmt.Sprint(f.asked), `"password":"of the environment"`) {
		t.Errorf("exit code %d, asked %v: %s", code, f.asked, &errs)
	}
}

// An agent without a stream says so; one whose stream is elsewhere is not
// called disconnected.
func TestStreamOfAgent(t *testing.T) {
	f := newFakeNode(t, map[string]any{
		"GET /v1/agents/gone": apiv1.Agent{ID: "gone", State: "offline"}, "GET /v1/agents/elsewhere": apiv1.Agent{ID: "elsewhere", State: "running", Node: "n2"},
	})
	for id, want := range map[string]string{"gone": "Stream     none\n", "elsewhere": "Stream     not on the node that was asked\n"} {
		if r := f.muster(t, "", "agent", "show", id); !strings.Contains(r.out, want) {
			t.Errorf("%s lacks %q:\n%s", id, want, r.out)
		}
	}
}

func TestAgentBundle(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bundle")
	f := newFakeNode(t, someAnswers())
	r := f.muster(t, "", "pki", "agent-bundle", "--name", "prod", "--out", dir)
	if r.code != exitOK || f.asked[0] != `POST /v1/pki/agent-bundles {"kind":"fleet","name":"prod"}` {
		t.Fatalf("%+v, asked %v", r, f.asked)
	}
	for name, want := range map[string]string{"ca.crt": "CA\n", "client.crt": "CERT\n", "client.key": "KEY\n"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, name)); string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	r = f.muster(t, "", "pki", "agent-bundle", "--agent-id", "a1", "--out", dir)
	if r.code != exitFailed || len(f.asked) != 1 || !strings.Contains(r.err, "ca.crt exists") || !strings.Contains(r.err, "--force") {
		t.Errorf("over another bundle: %+v, asked %v", r, f.asked)
	}
	f.muster(t, "", "pki", "agent-bundle", "--agent-id", "a1", "--out", dir, "--force")
	if f.asked[1] != `POST /v1/pki/agent-bundles {"kind":"agent","agent_id":"a1"}` {
		t.Errorf("asked %s", f.asked[1])
	}
}

func TestCA(t *testing.T) {
	f := &fakeNode{answers: someAnswers()}
	f.Server = httptest.NewTLSServer(f)
	defer f.Close()
	f.Config.ErrorLog = nil
	if r := f.muster(t, "", "tag", "list"); r.code != exitFailed || !strings.Contains(r.err, "--ca FILE") {
		t.Errorf("without the CA: %+v", r)
	}
	ca := filepath.Join(t.TempDir(), "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := f.muster(t, "", "tag", "list", "--ca", ca); r.code != exitOK {
		t.Errorf("with the CA: %+v", r)
	}
}

// Kong hides a default behind the name of a value; people want both.
func TestHelpShowsDefaults(t *testing.T) {
	for args, wants := range map[string][]string{
		"server": {
			"--data-dir=DIR", "(default: ./muster-data)", "--https-addr=HOST:PORT", "(default: :6752)", "(default: hids_svr)",
			"User of --kafka-sasl.", "Key of --kafka-tls-cert.",
		},
		"agent list": {"(default: http://127.0.0.1:6701)", "(default: 1000)"},
		"task run":   {"(default: 999)"},
	} {
		r := muster(t, "", append(strings.Fields(args), "--help")...)
		text := strings.Join(strings.Fields(r.out), " ") // without the lines' ends
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s --help lacks %q:\n%s", args, want, r.out)
			}
		}
		for part := range strings.SplitSeq(text, " --") {
			if strings.Count(part, "efault: ") > 1 {
				t.Errorf("%s --help says a default twice: %s", args, part)
			}
		}
	}
}

func TestFlagNames(t *testing.T) {
	parser, err := newParser(&app{ctx: t.Context(), streams: streams{out: io.Discard, err: io.Discard}}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	words := regexp.MustCompile(`^[a-z]{2,}(-[a-z0-9]{2,})*$`)
	err = kong.Visit(parser.Model, func(n kong.Visitable, next kong.Next) error {
		if f, ok := n.(*kong.Flag); ok && f.Name != "q" {
			if !words.MatchString(f.Name) {
				t.Errorf("--%s does not read well", f.Name)
			}
			if f.Help == "" {
				t.Errorf("--%s says nothing", f.Name)
			}
		}
		return next(nil)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestHelpAndCompletion(t *testing.T) {
	for _, args := range []string{"--help", "task create --help", "server --help", "completion --help"} {
		if r := muster(t, "", strings.Fields(args)...); r.code != exitOK || !strings.Contains(r.out, "Usage: muster") || r.err != "" {
			t.Errorf("%s: %+v", args, r)
		}
	}
	for shell, want := range map[string][]string{
		"bash": {"complete -F _muster muster", `"muster agent list") words="`, "--hostname"},
		"zsh":  {"#compdef muster", `"muster task") words="`, "cancel"},
		"fish": {"complete -c muster", "-a passwd", "-l password-file"},
	} {
		r := muster(t, "", "completion", shell)
		for _, w := range want {
			if r.code != exitOK || !strings.Contains(r.out, w) {
				t.Errorf("%s lacks %q: exit code %d, %s", shell, w, r.code, r.err)
			}
		}
	}
	if r := muster(t, "", "version"); r.code != exitOK || !strings.HasPrefix(r.out, "muster ") {
		t.Errorf("%+v", r)
	}
}

// TestRecoverIsForOneStart: a setting that would be repeated at each start is refused.
func TestRecoverIsForOneStart(t *testing.T) {
	t.Setenv("MUSTER_RECOVER", "true")
	if r := muster(t, "", "server"); r.code != exitUsage || !strings.Contains(r.err, "MUSTER_RECOVER: --recover is for one start") {
		t.Errorf("%+v", r)
	}
}
