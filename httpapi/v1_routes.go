// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"muster/fleet"
	"muster/internal/apiv1"
)

// v1Routes are the routes of the native API.
func (a *API) v1Routes() []Route {
	groups := [][]Route{
		a.v1NodeRoutes(), a.v1DrainRoutes(), a.v1ServiceRoutes(), a.v1AgentRoutes(), a.v1TagRoutes(), a.v1TaskRoutes(),
		a.v1UserRoutes(), a.v1TokenRoutes(), a.v1KeyRoutes(), a.v1DocumentRoutes(),
	}
	var all []Route
	for _, g := range groups {
		for _, r := range g {
			r.Listeners = listenersAPI
			all = append(all, r)
		}
	}
	return all
}

// bodyHandler handles a request whose body has been decoded.
type bodyHandler[In any] func(w http.ResponseWriter, r *http.Request, c *call, in In) error

// withBody decodes the body for h, which must be there.
func withBody[In any](h bodyHandler[In]) handlerFunc { return decoding(h, false) }

// withOptionalBody is withBody for requests that may leave the body out: h
// gets the zero value then.
func withOptionalBody[In any](h bodyHandler[In]) handlerFunc { return decoding(h, true) }

func decoding[In any](h bodyHandler[In], optional bool) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request, c *call) error {
		if kind := r.Header.Get("Content-Type"); !isJSON(kind) {
			writeProblem(w, Problem{
				Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type",
				Field: "Content-Type", Detail: "only application/json is accepted, or no Content-Type at all",
			})
			return nil
		}
		var in In
		body, err := readBody(r)
		if err != nil {
			return err
		}
		if len(body) > 0 || !optional {
			if err := decodeStrict(r, &in); err != nil {
				return err
			}
		}
		return h(w, r, c, in)
	}
}

func isJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == "application/json"
}

// listQuery reads the parameters of a list and refuses those that it does not
// know: a misspelt filter must not answer everything.
func listQuery(r *http.Request, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fleet.Refuse(fleet.CodeInvalid, "the query is malformed: escape it as a URL needs it")
	}
	for name, given := range values {
		ok := name == "limit" || name == "after"
		for _, k := range known {
			ok = ok || name == k
		}
		if !ok {
			return nil, fleet.Invalid(clip(name), "is not a parameter of this route; it knows limit, after%s", join(known))
		}
		if len(given) > 1 {
			return nil, fleet.Invalid(name, "is given %d times", len(given))
		}
	}
	return values, nil
}

func join(names []string) string {
	var b strings.Builder
	for _, n := range names {
		b.WriteString(", " + n)
	}
	return b.String()
}

// clip keeps what a client wrote short in what it is answered.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// limitAfter reads ?limit= and ?after=.
func limitAfter(values url.Values) (limit int, after string, err error) {
	limit = apiv1.DefaultPageLimit
	if text := values.Get("limit"); values.Has("limit") {
		limit, err = strconv.Atoi(text)
		if err != nil || limit < 1 || limit > apiv1.MaxPageLimit {
			return 0, "", fleet.Invalid("limit", "%q is not a number from 1 to %d", clip(text), apiv1.MaxPageLimit)
		}
	}
	return limit, values.Get("after"), nil
}

// keyPage cuts a list of up to limit+1 items to limit; next is the key of the
// last one if there are more.
func keyPage[T any](items []T, limit int, key func(T) string) apiv1.Page[T] {
	p := apiv1.Page[T]{Items: nonNil(items)}
	if len(items) > limit {
		p.Items = items[:limit]
		p.Next = key(p.Items[limit-1])
	}
	return p
}

// keyPageFrom is keyPage for a whole list that is sorted by key: it starts after the
// given one.
func keyPageFrom[T any](items []T, limit int, after string, key func(T) string) apiv1.Page[T] {
	i := 0
	for after != "" && i < len(items) && key(items[i]) <= after {
		i++
	}
	return keyPage(items[i:], limit, key)
}

// convert makes a list of another type; it is never nil.
func convert[From, To any](from []From, one func(From) To) []To {
	to := make([]To, len(from))
	for i, f := range from {
		to[i] = one(f)
	}
	return to
}

// at is a Unix second as the API shows it; 0 is no time.
func at(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// noContent answers a change that has nothing to say.
func noContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// Paths of the description: what stands in the path, by name.
type (
	pathID struct {
		ID string `path:"id"`
	}
	pathName struct {
		Name string `path:"name"`
	}
	pathTag struct {
		Tag string `path:"tag"`
	}
	pathKey struct {
		AccessKey string `path:"ak"`
	}
)
