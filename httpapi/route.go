// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/julienschmidt/httprouter"

	"muster/fleet"
)

// Listener is a kind of listener, or a set of kinds.
type Listener uint8

// The kinds of listeners.
const (
	ListenerSD    Listener = 1 << iota // --sd-addr, plain: agents ask where to go
	ListenerHTTP                       // --http-addr, plain: everything
	ListenerHTTPS                      // --https-addr: the same over TLS

	listenersAPI = ListenerHTTP | ListenerHTTPS
	listenersAll = ListenerSD | listenersAPI
)

// Access says who may call a route. The zero value is no declaration, which New
// refuses by a panic.
type Access struct {
	open       bool
	permission fleet.Permission
	scope      fleet.KeyScope
}

// open is for routes that need no credential.
func open() Access { return Access{open: true} }

// permit is for routes that need a token whose user has the permission.
func permit(p fleet.Permission) Access { return Access{permission: p} }

// signed is for routes that need a request signed with a key of the scope.
func signed(s fleet.KeyScope) Access { return Access{scope: s} }

// permitOrSigned takes either credential.
func permitOrSigned(p fleet.Permission, s fleet.KeyScope) Access {
	return Access{permission: p, scope: s}
}

// Declared tells whether somebody decided who may call the route.
func (a Access) Declared() bool { return a.open || a.permission != "" || a.scope != "" }

// Open tells whether no credential is needed.
func (a Access) Open() bool { return a.open }

// Permission is what a token must grant; empty if tokens are not taken.
func (a Access) Permission() fleet.Permission { return a.permission }

// Scope is what an AK/SK pair must be for; empty if they are not taken.
func (a Access) Scope() fleet.KeyScope { return a.scope }

// handlerFunc writes an answer, or returns an error and has written nothing.
type handlerFunc func(w http.ResponseWriter, r *http.Request, c *call) error

// Route is one line of the route table. Summary, Query, Request and Response
// are for the API's description; of the last three, zero values of the types
// that hold the query (form tags), the JSON body and the JSON answer, or nil.
type Route struct {
	Method    string
	Path      string // in httprouter's form
	Listeners Listener
	Access    Access
	// Stateless routes neither read nor write the replicated state: they are
	// served while it must not be read, and wait for no index.
	Stateless bool
	// Heavy routes may look through the whole fleet: few run at once, and the
	// others wait; see admission.
	Heavy    bool
	Summary  string
	Query    any
	Request  any
	Response any
	Status   int // of a good answer; 0 means 200
	handle   handlerFunc
	// Events is a zero value of the type of a stream's events, for routes that
	// answer with one who asks for text/event-stream: then events handles the
	// request, which has no time limit.
	Events any
	events handlerFunc
}

// OpenRoutes are all the routes that need no credential, as docs/security.md
// lists them. A test compares them with the table.
func OpenRoutes() []string {
	return []string{
		"GET /",
		"GET /endpoint/ping",
		"GET /endpoint/stat",
		"GET /livez",
		"GET /metrics",
		"GET /ping",
		"GET /readyz",
		"GET /registry/detail",
		"GET /registry/fetch",
		"GET /registry/list",
		"GET /registry/summary",
		"POST /api/v1/user/login",
		"POST /v1/tokens", // the password in its body is the credential
	}
}

// heavy marks a route as such.
func heavy(r Route) Route {
	r.Heavy = true
	return r
}

// table is every route that there is.
func (a *API) table() []Route {
	return slices.Concat(a.healthRoutes(), a.discoveryRoutes(), a.connRoutes(),
		a.userRoutes(), a.agentRoutes(), a.taskRoutes(), a.v1Routes())
}

// checkTable panics on a route that leaves open what must be decided.
func checkTable(routes []Route) {
	opened := OpenRoutes()
	for _, r := range routes {
		name := r.Method + " " + r.Path
		switch {
		case r.handle == nil:
			panic("httpapi: " + name + " has no handler")
		case (r.Events == nil) != (r.events == nil):
			panic("httpapi: " + name + " does not describe its stream, or has none")
		case !r.Access.Declared():
			panic("httpapi: " + name + " does not declare who may call it")
		case r.Listeners == 0:
			panic("httpapi: " + name + " does not declare where it is served")
		case r.Stateless && !r.Access.open:
			panic("httpapi: " + name + " checks a credential, which is in the replicated state, and is declared to be without it")
		case r.Heavy && r.Access.open:
			panic("httpapi: " + name + " is heavy and open: anybody could hold up all queries")
		case r.Access.open && !slices.Contains(opened, name):
			panic("httpapi: " + name + " is open, but not in the list of open routes")
		}
	}
}

// router serves the routes of one kind of listener. It looks for them by the
// path as it is escaped, so that a variable may hold any character, a slash too;
// handlers see the request as it came.
func (a *API) router(kind Listener) http.Handler {
	mux := httprouter.New()
	mux.RedirectFixedPath = false
	mux.RedirectTrailingSlash = false // it would escape the path twice
	for _, route := range a.routes {
		if route.Listeners&kind == 0 {
			continue
		}
		h := a.serve(route, kind)
		mux.Handle(route.Method, route.Path, h)
		if route.Method == http.MethodGet {
			mux.Handle(http.MethodHead, route.Path, h)
		}
	}
	mux.NotFound = a.unrouted(kind, http.StatusNotFound)
	mux.MethodNotAllowed = a.unrouted(kind, http.StatusMethodNotAllowed)
	mux.GlobalOPTIONS = a.unrouted(kind, http.StatusNoContent)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.EscapedPath()
		handle, params, slash := mux.Lookup(r.Method, path)
		switch {
		case handle != nil:
			handle(w, r, params)
		case slash && path != "/":
			redirectSlash(w, r, path)
		default:
			r = r.WithContext(r.Context()) // a copy
			r.URL = &url.URL{Path: path}
			mux.ServeHTTP(w, r)
		}
	})
}

// redirectSlash sends a client whose path has a slash too many at its end, or
// too few, to the right one.
func redirectSlash(w http.ResponseWriter, r *http.Request, path string) {
	if trimmed, ok := strings.CutSuffix(path, "/"); ok {
		path = trimmed
	} else {
		path += "/"
	}
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	status := http.StatusMovedPermanently
	if r.Method != http.MethodGet {
		status = http.StatusTemporaryRedirect // keeps the method
	}
	http.Redirect(w, r, path, status)
}

// unescape makes the variables of a path what the client means by them.
func unescape(escaped httprouter.Params) (httprouter.Params, error) {
	if len(escaped) == 0 {
		return nil, nil
	}
	params := make(httprouter.Params, len(escaped))
	for i, p := range escaped {
		value, err := url.PathUnescape(p.Value)
		if err != nil {
			return nil, fleet.Invalid(p.Key, "is not escaped as a URL needs it")
		}
		params[i] = httprouter.Param{Key: p.Key, Value: value}
	}
	return params, nil
}

// style is the shape in which a family of routes refuses.
type style int

const (
	stylePlain   style = iota // text
	styleManager              // Elkeid's Manager: 401 and 403 empty, else the envelope
	styleAC                   // Elkeid's AgentCenter: the envelope with its own codes
	styleSD                   // Elkeid's ServiceDiscovery: {"msg"}
	styleV1                   // application/problem+json
)

// styleOf finds the style by the path.
func styleOf(path string) style {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "v1":
		return styleV1
	case "api":
		return styleManager
	case "conn", "command":
		return styleAC
	case "registry", "endpoint":
		return styleSD
	}
	return stylePlain
}

// String names the route as it stands in the table.
func (r Route) String() string { return fmt.Sprintf("%s %s", r.Method, r.Path) }
