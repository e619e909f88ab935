// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package bubble

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing/synctest"
	"time"

	"muster/internal/aksk"
	"muster/internal/apiv1"
)

// tokenFor is how long the token of Node.Token is used: less than the two
// hours without use after which it would end.
const tokenFor = time.Hour

// ledger begins the names of the ledger's metrics.
const ledger = "muster_recordlog_"

// session is the administrator's log-in.
type session struct {
	token string
	at    time.Time
}

// Request is one HTTP request to the node.
type Request struct {
	Method, Path, Body string
	// Token goes into Elkeid's header.
	Token string
	// Header goes into the request, too.
	Header map[string]string
	// Sign signs the request with a key; SignedAt is the time in the signature,
	// zero meaning now, and SignedBody is what is signed, empty meaning Body.
	Sign       *Key
	SignedAt   time.Time
	SignedBody string
}

// Key is an AK/SK pair.
type Key struct{ AK, SK string }

// Answer is the answer to a Request.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Envelope is Elkeid's.
type Envelope struct {
	Code int             `json:"code"`
	Msg  string          `json:"msg"`
	Data json.RawMessage `json:"data"`
}

// Do sends a request over plain HTTP, from the operator's host, and waits until
// everybody rests.
func (n *Node) Do(q Request) Answer {
	n.T.Helper()
	a, err := n.Try(q)
	if err != nil {
		n.T.Fatal(err)
	}
	synctest.Wait()
	return a
}

// Try is Do for when there may be no answer.
func (n *Node) Try(q Request) (Answer, error) {
	n.T.Helper()
	signed := q.Body
	if q.SignedBody != "" {
		signed = q.SignedBody
	}
	req, err := http.NewRequestWithContext(n.T.Context(), q.Method, "http://"+n.at(httpPort)+q.Path, strings.NewReader(signed))
	if err != nil {
		n.T.Fatal(err)
	}
	if q.Sign != nil {
		at := q.SignedAt
		if at.IsZero() {
			at = time.Now()
		}
		if err := aksk.SignRequest(req, q.Sign.AK, q.Sign.SK, at); err != nil {
			n.T.Fatal(err)
		}
	}
	if signed != q.Body {
		req.Body, req.ContentLength, req.GetBody = io.NopCloser(strings.NewReader(q.Body)), int64(len(q.Body)), nil
	}
	if q.Token != "" {
		req.Header.Set("token", q.Token)
	}
	for name, value := range q.Header {
		req.Header.Set(name, value)
	}
	res, err := n.client.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("%s %s: %w", q.Method, q.Path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("%s %s: %w", q.Method, q.Path, err)
	}
	return Answer{Status: res.StatusCode, Header: res.Header, Body: string(body)}, nil
}

// Envelope reads the answer's.
func (a Answer) Envelope() (Envelope, error) {
	var e Envelope
	if err := json.Unmarshal([]byte(a.Body), &e); err != nil {
		return e, fmt.Errorf("status %d, no envelope: %w: %.200s", a.Status, err, a.Body)
	}
	return e, nil
}

// LogIn sends Elkeid's log-in.
func (n *Node) LogIn(user, password string) Answer {
	n.T.Helper()
	return n.Do(Request{Method: "POST", Path: "/api/v1/user/login", Body: JSON(n, map[string]string{"username": user, "password": password})})
}

// NewToken logs the administrator in.
func (n *Node) NewToken() string {
	n.T.Helper()
	var data struct{ Token string }
	n.data(n.LogIn(Admin, AdminPassword), &data)
	return data.Token
}

// Token returns a token of the administrator that is good now.
func (n *Node) Token() string {
	n.T.Helper()
	if n.session.token == "" || time.Since(n.session.at) > tokenFor {
		n.session = session{token: n.NewToken(), at: time.Now()}
	}
	return n.session.token
}

// LastToken returns the last token of Token, for when none can be made.
func (c *Cluster) LastToken() string { return c.session.token }

// Get asks one of Elkeid's routes as the administrator, and decodes the data of
// the answer, whose code must be 0, into out unless that is nil.
func (n *Node) Get(path string, out any) {
	n.T.Helper()
	n.data(n.Do(Request{Method: "GET", Path: path, Token: n.Token()}), out)
}

// Post is Get with a body: a string as it is, anything else as JSON.
func (n *Node) Post(path string, body, out any) {
	n.T.Helper()
	text, ok := body.(string)
	if !ok {
		text = JSON(n, body)
	}
	n.data(n.Do(Request{Method: "POST", Path: path, Token: n.Token(), Body: text}), out)
}

func (n *Node) data(a Answer, out any) {
	n.T.Helper()
	e, err := a.Envelope()
	if err != nil {
		n.T.Fatal(err)
	}
	if a.Status != http.StatusOK || e.Code != 0 {
		n.T.Fatalf("answer: status %d: %s", a.Status, a.Body)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(e.Data, out); err != nil {
		n.T.Fatalf("data of the answer: %v: %s", err, e.Data)
	}
}

// V1 asks a route of /v1 as the administrator and decodes the answer.
func (n *Node) V1(method, path string, body, out any) {
	n.T.Helper()
	q := Request{Method: method, Path: path, Token: n.Token()}
	if body != nil {
		q.Body = JSON(n, body)
	}
	a := n.Do(q)
	if a.Status >= http.StatusMultipleChoices {
		n.T.Fatalf("%s %s: status %d: %s", method, path, a.Status, a.Body)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal([]byte(a.Body), out); err != nil {
		n.T.Fatalf("%s %s: %v: %s", method, path, err, a.Body)
	}
}

// NewKey makes an AK/SK pair for a scope.
func (n *Node) NewKey(scope string) *Key {
	n.T.Helper()
	var made apiv1.CreatedKey
	n.V1("POST", "/v1/keys", apiv1.NewKey{Scope: scope}, &made)
	return &Key{AK: made.AccessKey, SK: made.SecretKey}
}

// Status asks /v1/status.
func (n *Node) Status() apiv1.Status {
	n.T.Helper()
	var s apiv1.Status
	n.V1("GET", "/v1/status", nil, &s)
	return s
}

// Metrics reads /metrics: values by name with its labels, as they stand there.
func (n *Node) Metrics() map[string]float64 {
	n.T.Helper()
	values := map[string]float64{}
	for line := range strings.Lines(n.Do(Request{Method: "GET", Path: "/metrics"}).Body) {
		line = strings.TrimSpace(line)
		cut := strings.LastIndexByte(line, ' ')
		if cut < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := strconv.ParseFloat(line[cut+1:], 64)
		if err != nil {
			n.T.Fatalf("/metrics: %q: %v", line, err)
		}
		values[line[:cut]] = v
	}
	return values
}

// Metric reads one value of /metrics and fails the test if it is not there.
func (n *Node) Metric(name string) float64 {
	n.T.Helper()
	v, ok := n.Metrics()[name]
	if !ok {
		n.T.Fatalf("/metrics has no %s", name)
	}
	return v
}

// CheckLedger fails the test unless the ledger of /metrics balances; it returns
// how many records were received.
func (n *Node) CheckLedger() float64 {
	n.T.Helper()
	all := n.Metrics()
	received, ok := all[ledger+"received_records_total"]
	if !ok {
		n.T.Fatal("/metrics has no ledger")
	}
	sum := all[ledger+"delivered_records_total"] + all[ledger+"pending_records"] +
		all[ledger+"spooled_records"] + all[ledger+"refused_records_total"]
	for name, v := range all {
		if strings.HasPrefix(name, ledger+"dropped_records_total") {
			sum += v
		}
	}
	if received != sum {
		n.T.Errorf("the ledger does not balance: received %v, accounted for %v", received, sum)
	}
	return received
}

// JSON encodes a value.
func JSON(n *Node, v any) string {
	n.T.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		n.T.Fatal(err)
	}
	return string(b)
}
