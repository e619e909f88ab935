// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// healthRoutes say how the node is, to anybody.
func (a *API) healthRoutes() []Route {
	scrape := promhttp.HandlerFor(a.opts.Gatherer, promhttp.HandlerOpts{})
	return []Route{
		{
			Method: http.MethodGet, Path: "/livez", Listeners: listenersAll, Access: open(), Stateless: true,
			Summary: "Whether the process answers at all.",
			handle: func(w http.ResponseWriter, _ *http.Request, _ *call) error {
				return respond(w, http.StatusOK, map[string]bool{"alive": true})
			},
		},
		{
			Method: http.MethodGet, Path: "/readyz", Listeners: listenersAll, Access: open(), Stateless: true,
			Summary: "Whether agents can deliver to this node.", handle: a.readyz,
		},
		{
			Method: http.MethodGet, Path: "/metrics", Listeners: listenersAll, Access: open(), Stateless: true,
			Summary: "Prometheus metrics of this node.",
			handle: func(w http.ResponseWriter, r *http.Request, _ *call) error {
				scrape.ServeHTTP(w, r)
				return nil
			},
		},
		{
			Method: http.MethodGet, Path: "/ping", Listeners: listenersAll, Access: open(), Stateless: true,
			Summary: "The node's build.", handle: a.ping,
		},
		{
			Method: http.MethodGet, Path: "/", Listeners: listenersAPI, Access: open(), Stateless: true,
			Summary: "The node's status for people, and what to type next.", handle: a.front,
		},
	}
}

type readyAnswer struct {
	Ready    bool     `json:"ready"`
	Degraded []string `json:"degraded"`
}

type notReadyAnswer struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"`
}

// health is the node's judgement, and why the routes of the state refuse if it
// does not say so itself.
func (a *API) health() Health {
	h := a.opts.Health()
	reason := a.opts.Starting()
	if reason == "" || slices.Contains(h.Reasons, reason) || slices.Contains(h.Degraded, reason) {
		return h
	}
	reason = "reads and changes are refused here: " + reason
	if h.Ready {
		h.Degraded = append(slices.Clone(h.Degraded), reason)
	} else {
		h.Reasons = append(slices.Clone(h.Reasons), reason)
	}
	return h
}

func (a *API) readyz(w http.ResponseWriter, _ *http.Request, _ *call) error {
	w.Header().Set("Cache-Control", "no-store")
	h := a.health()
	if !h.Ready {
		return respond(w, http.StatusServiceUnavailable, notReadyAnswer{Reasons: nonNil(h.Reasons)})
	}
	return respond(w, http.StatusOK, readyAnswer{Ready: true, Degraded: nonNil(h.Degraded)})
}

func (a *API) ping(w http.ResponseWriter, _ *http.Request, _ *call) error {
	n := a.opts.Node
	return respond(w, http.StatusOK, struct {
		Message string `json:"message"`
		Commit  string `json:"commit"`
		Build   string `json:"build"`
		Version string `json:"version"`
		CI      string `json:"ci"`
	}{"pong", n.Commit, n.BuiltAt, n.Version, n.CI})
}

// frontPage is all that GET / knows. It holds nothing that /readyz, /metrics
// and SD do not tell anybody too.
type frontPage struct {
	Node, Version string
	State         string
	Notes         []string
	Agents        int
	Base          string
}

var frontHTML = template.Must(template.New("front").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Muster: {{.Node}}</title></head>
<body><h1>Muster</h1>
<p>Node <b>{{.Node}}</b>{{with .Version}}, version {{.}}{{end}}: <b>{{.State}}</b>, agents connected here: {{.Agents}}.</p>
{{with .Notes}}<ul>{{range .}}<li>{{.}}</li>{{end}}</ul>{{end}}
<p>Log in, then look at the fleet:</p>
<pre>curl --request POST {{.Base}}/api/v1/user/login --data-raw '{"username":"admin","password":"..."}'
curl -H "token: TOKEN" {{.Base}}/api/v1/agent/getStatus
muster status --addr {{.Base}}</pre>
<p>Also here: <a href="/readyz">/readyz</a>, <a href="/metrics">/metrics</a>; with a token, /v1/openapi.json.</p>
</body></html>
`))

// front answers GET / in HTML to browsers and in text to all others.
func (a *API) front(w http.ResponseWriter, r *http.Request, c *call) error {
	p := a.frontPage(r, c)
	w.Header().Set("Cache-Control", "no-store")
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		var b bytes.Buffer
		if err := frontHTML.Execute(&b, p); err != nil {
			return fmt.Errorf("render the front page: %w", err)
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(b.Bytes())
		return nil
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "Muster node %s %s: %s, agents connected here: %d\n", p.Node, p.Version, p.State, p.Agents)
	for _, note := range p.Notes {
		fmt.Fprintf(w, "  %s\n", note)
	}
	fmt.Fprintf(w, `
Log in, then look at the fleet:
  curl --request POST %[1]s/api/v1/user/login --data-raw '{"username":"admin","password":"..."}'
  curl -H "token: TOKEN" %[1]s/api/v1/agent/getStatus
  muster status --addr %[1]s
Also here: /readyz, /metrics; with a token, /v1/openapi.json.
`, p.Base)
	return nil
}

func (a *API) frontPage(r *http.Request, c *call) frontPage {
	h := a.health()
	p := frontPage{Node: a.opts.Node.Name, Version: a.opts.Node.Version, State: "ready", Agents: a.opts.Live.Sessions.SessionCount()}
	switch {
	case !h.Ready:
		p.State, p.Notes = "not ready", h.Reasons
	case len(h.Degraded) > 0:
		p.State, p.Notes = "ready, degraded", h.Degraded
	}
	p.Base = "http://" + safeHost(r.Host)
	if c.kind == ListenerHTTPS {
		p.Base = "https://" + safeHost(r.Host)
	}
	return p
}

// safeHost returns the Host header if it is nothing but a host and a port: it is
// shown in a line that people paste into a shell.
func safeHost(host string) string {
	for _, ch := range host {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:[]", ch) {
			return "HOST:PORT"
		}
	}
	if host == "" {
		return "HOST:PORT"
	}
	return host
}
