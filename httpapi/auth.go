// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"muster/fleet"
	"muster/internal/aksk"
)

// Limits of tokens.
const (
	maxTokenText = 512
	// touchAfterSeconds is how old the noted last use of a token gets. Noting it
	// is a replicated write, so it is not done at each request.
	touchAfterSeconds = 600
	touchTimeout      = 500 * time.Millisecond
)

// caller is who makes a request: a user by a token, or a program by a key.
type caller struct {
	User    string
	Role    fleet.Role // the user's
	TokenID string
	narrow  fleet.Role // the token's, if it has one of its own

	AccessKey string
	Scope     fleet.KeyScope
}

// May tells whether the caller's user, and its token, grant the permission. A
// program with a key has none: keys open routes by their scope.
func (c caller) May(p fleet.Permission) bool {
	return c.Role.May(p) && (c.narrow == "" || c.narrow.May(p))
}

// name is how the caller is named in what it creates.
func (c caller) name() string {
	if c.User != "" {
		return c.User
	}
	return c.AccessKey
}

// signatureRefused is a refusal of an AK/SK signature; it keeps its own shapes.
type signatureRefused struct{ err error }

func (s *signatureRefused) Error() string { return s.err.Error() }
func (s *signatureRefused) Unwrap() []error {
	return []error{s.err, fleet.ErrUnauthenticated}
}

// authenticate finds the caller and holds it against what the route asks for.
// A signature is looked at first where both are taken and it is there.
func (a *API) authenticate(r *http.Request, access Access) (caller, error) {
	hasToken := tokenOf(r) != ""
	signedHere := access.scope != "" && (access.permission == "" || r.Header.Get(aksk.HeaderAccessKey) != "" || !hasToken && styleOf(r.URL.Path) != styleV1)
	if signedHere {
		return a.bySignature(r, access.scope)
	}
	who, err := a.byToken(r)
	if err != nil {
		return caller{}, err
	}
	if !who.May(access.permission) {
		return caller{}, fleet.Refuse(fleet.CodeForbidden, "this needs the permission %s, which %s does not have", access.permission, who.Role)
	}
	return who, nil
}

// permitCommand refuses a caller who may not give agents the command. A key's
// scope has opened the route to all of them.
func (a *API) permitCommand(who caller, c fleet.AgentCommand) error {
	need := c.Permission()
	if who.AccessKey != "" || who.May(need) {
		return nil
	}
	a.metrics.refused.WithLabelValues("forbidden").Inc()
	return fleet.Refuse(fleet.CodeForbidden,
		"a config, or a task for %s itself, needs the permission %s, which your role, or your token's, does not have", fleet.AgentProduct, need)
}

// permitTask is permitCommand for a task that is stored.
func (a *API) permitTask(who caller, id string) error {
	task, err := a.opts.State.Tasks.Task(id)
	if err != nil {
		return fmt.Errorf("look up task: %w", err)
	}
	return a.permitCommand(who, task.Command)
}

// tokenOf takes the token from either header; Elkeid's own comes first.
func tokenOf(r *http.Request) string {
	if t := strings.TrimSpace(r.Header.Get("token")); t != "" {
		return t
	}
	scheme, t, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(t)
}

// byToken finds the user of the request's token.
func (a *API) byToken(r *http.Request) (caller, error) {
	text := tokenOf(r)
	if text == "" || len(text) > maxTokenText {
		return caller{}, fleet.ErrUnauthenticated
	}
	now := a.opts.Now()
	hash := hashToken(text)
	token, err := a.opts.State.Tokens.TokenByHash(hash)
	if errors.Is(err, fleet.ErrNotFound) {
		if err := a.askForStray(r, "token"); err != nil {
			return caller{}, err
		}
		if token, err = a.opts.State.Tokens.TokenByHash(hash); err == nil {
			a.strays.undo(sourceKey(r))
		}
	}
	switch {
	case errors.Is(err, fleet.ErrNotFound):
		return caller{}, fleet.ErrUnauthenticated
	case err != nil:
		return caller{}, fmt.Errorf("look up token: %w", err)
	case !token.ValidAt(now.Unix()):
		return caller{}, fleet.Refuse(fleet.CodeUnauthenticated, "the token has expired: log in again")
	}
	user, err := a.opts.State.Users.User(token.User)
	if errors.Is(err, fleet.ErrNotFound) {
		return caller{}, fleet.ErrUnauthenticated
	}
	if err != nil {
		return caller{}, fmt.Errorf("look up user of token: %w", err)
	}
	a.touch(r.Context(), token, now)
	return caller{User: user.Name, Role: user.Role(), TokenID: token.ID, narrow: token.Role}, nil
}

// askForStray returns nil when this node has applied all that was acknowledged
// before, so that what it still does not know does not exist: another node may
// have made the credential a moment ago.
func (a *API) askForStray(r *http.Request, what string) error {
	if wait, ok := a.strays.allow(sourceKey(r), a.opts.Now()); !ok {
		return &throttled{wait: wait}
	}
	if a.opts.Cluster == nil {
		return nil
	}
	if err := a.catchUp(r.Context()); err != nil {
		a.log.Debug("unknown credential not judged", "kind", what, "error", err)
		return cannotTell(what)
	}
	return nil
}

// touch notes that a token is used. It never fails a request, holds it up for
// touchTimeout at most, and tries at most once a minute for each token.
func (a *API) touch(ctx context.Context, t fleet.Token, now time.Time) {
	if now.Unix()-t.LastUsedAt < touchAfterSeconds || !a.touched.begin(t.ID, now) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, touchTimeout)
	defer cancel()
	if err := a.opts.State.Tokens.TouchToken(ctx, t.ID, now.Unix()); err != nil {
		a.metrics.touchFail.Inc()
		a.log.Warn("last use of a token not noted", "token_id", t.ID, "error", err)
	}
}

// bySignature finds the key that signed the request. The body that was hashed
// is the body that the handler reads.
func (a *API) bySignature(r *http.Request, want fleet.KeyScope) (caller, error) {
	body, err := readBody(r)
	if err != nil {
		return caller{}, err
	}
	var scope fleet.KeyScope
	var lookup error
	ak, err := aksk.Verify(aksk.FromHTTP(r, aksk.BodyHash(body)), a.opts.Now(), func(ak string) (string, bool) {
		var secret []byte
		secret, scope, lookup = a.keySecret(r, ak)
		return string(secret), lookup == nil
	})
	switch {
	case errors.Is(lookup, fleet.ErrThrottled):
		return caller{}, &signatureRefused{err: lookup}
	case lookup != nil && !errors.Is(lookup, fleet.ErrNotFound):
		return caller{}, fmt.Errorf("look up access key: %w", lookup)
	}
	if err != nil {
		return caller{}, &signatureRefused{err: err}
	}
	if scope != want {
		return caller{}, &signatureRefused{err: fleet.Refuse(fleet.CodeForbidden, "the key is for %s, this route needs one for %s", scope, want)}
	}
	return caller{AccessKey: ak, Scope: scope}, nil
}

// keySecret finds a key, also one that another node made a moment ago.
func (a *API) keySecret(r *http.Request, ak string) ([]byte, fleet.KeyScope, error) {
	secret, scope, err := a.opts.State.Keys.KeySecret(ak)
	if !errors.Is(err, fleet.ErrNotFound) {
		return secret, scope, err
	}
	if err := a.askForStray(r, "access key"); err != nil {
		return nil, "", err
	}
	if secret, scope, err = a.opts.State.Keys.KeySecret(ak); err == nil {
		a.strays.undo(sourceKey(r))
	}
	return secret, scope, err
}
