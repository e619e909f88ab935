// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startWithin bounds every wait for a process: generous, because CI machines
// are slow, and only ever spent by a test that fails.
const startWithin = 60 * time.Second

// binaries makes the directory of the binary, which Cleanup removes.
var binaries = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "muster-bin-") })

var build = sync.OnceValues(func() (string, error) {
	dir, err := binaries()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "muster")
	cmd := exec.Command("go", "build", "-o", path, "muster/cmd/muster")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// Binary returns the path of the muster binary, built once per test process.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Cleanup removes the binary, if there is one. TestMain calls it when all tests
// have ended.
func Cleanup() error {
	dir, err := binaries()
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Node is one running `muster server`.
type Node struct {
	Dir     string // its data directory
	SD      string // base URLs
	HTTP    string
	HTTPS   string
	Agent   string // host:port for agents
	Log     *Output
	args    []string
	t       testing.TB
	cmd     *exec.Cmd
	exited  chan struct{}
	exitErr error
}

// Output collects what a process prints; safe for concurrent use.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// String returns all that was printed so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// FreeAddr returns a loopback address whose port was free a moment ago.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// New describes a node on free ports with a data directory of its own; extra
// arguments go to `muster server`. Start starts it.
func New(t testing.TB, extra ...string) *Node {
	t.Helper()
	n := &Node{t: t, Dir: filepath.Join(t.TempDir(), "data"), Log: &Output{}, Agent: FreeAddr(t)}
	sd, plain, tls := FreeAddr(t), FreeAddr(t), FreeAddr(t)
	n.SD, n.HTTP, n.HTTPS = "http://"+sd, "http://"+plain, "https://"+tls
	n.args = append([]string{
		"server", "--data-dir", n.Dir, "--node-id", "node-a", "--bind", "127.0.0.1",
		"--sd-addr", sd, "--http-addr", plain, "--https-addr", tls, "--agent-addr", n.Agent,
		"--node-addr", FreeAddr(t), "--gossip-addr", FreeAddr(t),
	}, extra...)
	t.Cleanup(func() {
		n.Kill()
		if t.Failed() {
			t.Logf("log of the node:\n%s", n.Log.String())
		}
	})
	return n
}

// Set replaces the value of one of the arguments that New chose.
func (n *Node) Set(flag, value string) {
	n.t.Helper()
	for i, a := range n.args {
		if a == flag {
			n.args[i+1] = value
			if flag == "--data-dir" {
				n.Dir = value
			}
			return
		}
	}
	n.t.Fatalf("no argument %s", flag)
}

// Start starts the process and waits until it is ready.
func (n *Node) Start() {
	n.t.Helper()
	n.StartOnly()
	n.WaitReady()
}

// StartOnly starts the process and returns at once.
func (n *Node) StartOnly() {
	n.t.Helper()
	n.cmd = exec.Command(Binary(n.t), n.args...)
	n.cmd.Stdout, n.cmd.Stderr = n.Log, n.Log
	n.exited = make(chan struct{})
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		n.exitErr = n.cmd.Wait()
		close(n.exited)
	})
}

// WaitReady waits until /readyz says yes.
func (n *Node) WaitReady() {
	n.t.Helper()
	Eventually(n.t, startWithin, "the node is ready", func() error {
		select {
		case <-n.exited:
			n.t.Fatalf("the node ended before it was ready: %v\n%s", n.exitErr, n.Log.String())
		default:
		}
		res, err := http.Get(n.HTTP + "/readyz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(res.Body)
			return fmt.Errorf("readyz: %s: %s", res.Status, body)
		}
		return nil
	})
}

// Kill ends the process as kill -9 does, and waits for its end.
func (n *Node) Kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	<-n.exited
	n.cmd = nil
}

// Stop ends the process with SIGTERM and returns how long that took and its
// exit code.
func (n *Node) Stop() (took time.Duration, code int) {
	n.t.Helper()
	began := time.Now()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		n.t.Fatal(err)
	}
	code = n.WaitExit()
	return time.Since(began), code
}

// WaitExit waits for the process to end by itself and returns its exit code.
func (n *Node) WaitExit() int {
	n.t.Helper()
	select {
	case <-n.exited:
	case <-time.After(startWithin):
		n.t.Fatalf("the process did not end within %s\n%s", startWithin, n.Log.String())
	}
	code := n.cmd.ProcessState.ExitCode()
	n.cmd = nil
	return code
}

// AdminPassword reads the first user's password.
func (n *Node) AdminPassword() string {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.Dir, "admin-password"))
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// Login returns a token of the first user, by Elkeid's route.
func (n *Node) Login() string {
	n.t.Helper()
	body, err := json.Marshal(map[string]string{"username": "admin", "password": n.AdminPassword()})
	if err != nil {
		n.t.Fatal(err)
	}
	var answer struct {
		Code int
		Data struct{ Token string }
	}
	n.Call("POST", "/api/v1/user/login", "", string(body), &answer)
	if answer.Code != 0 || answer.Data.Token == "" {
		n.t.Fatalf("login: code %d", answer.Code)
	}
	return answer.Data.Token
}

// Call sends a request with a token ("" for none) and decodes the JSON answer
// into out; it returns the HTTP status.
func (n *Node) Call(method, path, token, body string, out any) int {
	n.t.Helper()
	status, answer, err := n.Try(method, path, token, body)
	if err != nil {
		n.t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			n.t.Fatalf("%s %s: %d: %v: %s", method, path, status, err, answer)
		}
	}
	return status
}

// Try sends a request as Call does, and returns what went wrong.
func (n *Node) Try(method, path, token, body string) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, n.HTTP+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		req.Header.Set("token", token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(res.Body)
	return res.StatusCode, answer, err
}

// Run runs the binary with the arguments of one of the operator's commands
// against this node and returns what it printed and its exit code.
func (n *Node) Run(args ...string) (stdout, stderr string, code int) {
	n.t.Helper()
	cmd := exec.Command(Binary(n.t), args...)
	cmd.Env = append(os.Environ(), "MUSTER_ADDR="+n.HTTP, "HOME="+n.t.TempDir())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		n.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Eventually tries until check returns nil, and fails the test with the last
// error when it has not by the deadline.
func Eventually(t testing.TB, within time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", within, what, err)
		}
		<-tick.C
	}
}
