// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"

	"github.com/julienschmidt/httprouter"

	"muster/fleet"
)

// call is what is known about one request before its handler runs.
type call struct {
	route  *Route
	kind   Listener
	params httprouter.Params
	// caller is the zero value on open routes.
	caller caller
}

// param is a variable of the route's path.
func (c *call) param(name string) string { return c.params.ByName(name) }

// answer is the ResponseWriter of a request; it remembers the status.
type answer struct {
	http.ResponseWriter
	status int    // 0 until something is written
	before func() // called before the header is written; may be nil
}

func (w *answer) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *answer) Write(b []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

func (w *answer) begin(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	if w.before != nil {
		w.before()
	}
}

// Unwrap is for http.ResponseController.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// serve puts everything that is the same for all routes around one of them.
func (a *API) serve(route Route, kind Listener) httprouter.Handle {
	st, fixed, tally := styleOf(route.Path), a.fixed[styleOf(route.Path)], a.metrics.tally(route.Method, route.Path)
	if route.Heavy {
		route.handle = a.inTurn(route.handle)
	}
	return func(rw http.ResponseWriter, r *http.Request, params httprouter.Params) {
		begun := a.opts.Now()
		x := &struct {
			answer
			call
		}{answer{ResponseWriter: rw}, call{route: &route, kind: kind}}
		w, c := &x.answer, &x.call
		fixed.set(w.Header())
		handle, unlimited := route.handle, r.Context()
		streams := route.events != nil && wantsEvents(r)
		defer func() {
			if streams { // its time says nothing about the node
				tally.count(w.status)
				return
			}
			tally.observe(w.status, a.opts.Now().Sub(begun))
		}()
		defer a.recoverPanic(w, r, route.Path, st)
		if !route.Stateless { // the others wait for nothing
			ctx, cancel := context.WithTimeout(unlimited, a.opts.RequestTimeout)
			defer cancel()
			r = r.WithContext(ctx)
		}
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = http.MaxBytesReader(w, r.Body, a.opts.MaxBodyBytes)
		}
		err := a.admit(w, r, c)
		if err == nil {
			c.params, err = unescape(params)
		}
		if err != nil {
			a.refuse(w, r, st, err)
			return
		}
		if streams {
			handle, r = route.events, r.WithContext(unlimited)
		}
		if err := handle(w, r, c); err != nil {
			a.refuse(w, r, st, err)
		}
	}
}

// admit judges the caller before the handler sees anything.
func (a *API) admit(w *answer, r *http.Request, c *call) error {
	if err := a.checkTransport(r, c); err != nil {
		return err
	}
	if err := a.checkState(r, c.route); err != nil {
		return err
	}
	a.noteIndex(w, r, c.route)
	if c.route.Access.open {
		return a.checkConsistency(r, c.route)
	}
	who, err := a.authenticate(r, c.route.Access)
	if err != nil {
		a.metrics.refused.WithLabelValues(refusalLabel(err)).Inc()
		return err
	}
	c.caller = who
	if who.User != "" {
		w.Header().Set("user", who.User)
	}
	w.Header().Set("Cache-Control", "no-store")
	return a.checkConsistency(r, c.route)
}

// checkTransport refuses credentials of the native API that crossed a network
// in the clear. It does not look at them, so nothing can be learned here.
func (a *API) checkTransport(r *http.Request, c *call) error {
	if c.kind == ListenerHTTPS || a.opts.AllowPlainHTTP || styleOf(c.route.Path) != styleV1 {
		return nil
	}
	if ip := sourceAddr(r); ip.IsLoopback() {
		return nil
	}
	return fleet.Refuse(fleet.CodeForbidden,
		"credentials of /v1 are not taken over plain HTTP from another host: use https, or start the node with --allow-plain-http")
}

// sourceAddr is where the request's connection comes from, without a port or
// zone; the zero Addr if that cannot be told.
func sourceAddr(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap().WithZone("")
}

// fixedHeaders are the headers of every answer of a style. The answers share
// their values, which nobody may change in place.
type fixedHeaders []struct {
	name  string // in canonical form
	value []string
}

func newFixedHeaders() map[style]fixedHeaders {
	all := fixedHeaders{
		{"X-Content-Type-Options", []string{"nosniff"}},
		{"X-Frame-Options", []string{"DENY"}},
		{"Referrer-Policy", []string{"no-referrer"}},
		{"Content-Security-Policy", []string{"default-src 'none'; frame-ancestors 'none'"}},
	}
	return map[style]fixedHeaders{
		stylePlain: all, styleManager: all, styleAC: all, styleV1: all,
		// JSON for programs, many times a second; no browser shows it as a page.
		styleSD: {all[0], {"Cache-Control", []string{"no-store"}}},
	}
}

func (f fixedHeaders) set(h http.Header) {
	for _, header := range f {
		h[header.name] = header.value
	}
}

// recoverPanic answers 500 if it still can. http.ErrAbortHandler passes.
func (a *API) recoverPanic(w *answer, r *http.Request, pattern string, st style) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // the value itself is the sign, as net/http compares it
		panic(v)
	}
	a.metrics.panics.Inc()
	a.log.Error("panic in an http handler", "route", pattern, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	if w.status == 0 {
		a.refuse(w, r, st, errInternal)
	}
}

// unrouted answers what no route serves.
func (a *API) unrouted(_ Listener, status int) http.Handler {
	tally := a.metrics.tally("any", "unmatched")
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		begun := a.opts.Now()
		w := &answer{ResponseWriter: rw}
		a.fixed[stylePlain].set(w.Header())
		defer func() { tally.observe(w.status, a.opts.Now().Sub(begun)) }()
		switch {
		case status == http.StatusNoContent:
			w.WriteHeader(status)
		case styleOf(r.URL.Path) == styleV1:
			p := Problem{Status: status, Code: "not_found", Detail: "there is no such path; GET /v1/openapi.json lists them all"}
			if status == http.StatusMethodNotAllowed {
				p.Code, p.Detail = "method_not_allowed", "the path is served, but not with this method; see the header Allow"
			}
			writeProblem(w, p)
		default:
			http.Error(w, http.StatusText(status), status)
		}
	})
}

// readBody reads the whole body and puts it back, so that what was checked is
// what is handled.
func readBody(r *http.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, bodyError(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, nil
}
