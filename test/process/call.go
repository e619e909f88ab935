// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"muster/internal/apiclient"
)

// caller opens a connection for each call, so that none meets one whose node was
// killed since.
var caller = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

const (
	// callWithin bounds a call; a node answers within 10 s whatever happens.
	callWithin = 30 * time.Second
	// lookWithin bounds a question that a node answers by itself. One that is
	// stopped does not.
	lookWithin = 5 * time.Second
)

// API returns a client with a token, whose calls end after that time.
func (n *Node) API(token string, within time.Duration) *apiclient.Client {
	n.t.Helper()
	client, err := apiclient.New(apiclient.Options{Addr: n.HTTP, Token: token, Timeout: within, Transport: caller.Transport})
	if err != nil {
		n.t.Fatal(err)
	}
	return client
}

// Linearizable is API for reads that see every write that any node acknowledged
// before them.
func (n *Node) Linearizable(token string, within time.Duration) *apiclient.Client {
	n.t.Helper()
	client, err := apiclient.New(apiclient.Options{Addr: n.HTTP, Token: token, Timeout: within, Transport: linearizable{}})
	if err != nil {
		n.t.Fatal(err)
	}
	return client
}

type linearizable struct{}

// RoundTrip adds the header that asks for it.
func (linearizable) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Muster-Consistency", "linearizable")
	return caller.Transport.RoundTrip(r)
}

// AdminPassword is the first user's password: that of the cluster, or the one
// that a lone node wrote down.
func (n *Node) AdminPassword() string {
	n.t.Helper()
	if n.password != "" {
		return n.password
	}
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
	return n.try(callWithin, method, path, token, body)
}

func (n *Node) try(within time.Duration, method, path, token, body string) (status int, answer []byte, err error) {
	a, err := n.Exchange(within, method, path, body, map[string]string{"token": token})
	return a.Status, a.Body, err
}

// Answer is what a node says to a request.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Exchange sends a request with these headers, those that are not empty.
func (n *Node) Exchange(within time.Duration, method, path, body string, header map[string]string) (Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, n.HTTP+path, strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	for key, value := range header {
		if value != "" {
			req.Header.Set(key, value)
		}
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := caller.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return Answer{Status: res.StatusCode, Header: res.Header, Body: text}, err
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
