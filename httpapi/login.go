// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"muster/fleet"
	"muster/internal/password"
)

// Limits of a log-in's token.
const (
	sessionSeconds     = 12 * 3600
	sessionIdleSeconds = 120 * 60
)

// errWrongPassword is the same for a user that does not exist.
var errWrongPassword = fleet.Refuse(fleet.CodeUnauthenticated, "verify password failed")

// logIn makes a session token for whoever knows the password.
func (a *API) logIn(r *http.Request, name, pw string) (text string, err error) {
	user, err := a.checkPassword(r, name, pw)
	if err != nil {
		return "", err
	}
	now := a.opts.Now()
	text, hash := newToken()
	err = a.opts.State.Tokens.CreateToken(r.Context(), fleet.Token{
		ID: newID(now), Hash: hash, User: user.Name, Kind: fleet.TokenSession,
		CreatedAt: now.Unix(), LastUsedAt: now.Unix(),
		ExpiresAt: now.Unix() + sessionSeconds, IdleSeconds: sessionIdleSeconds,
	})
	if err != nil {
		return "", fmt.Errorf("store token: %w", err)
	}
	return text, nil
}

// checkPassword finds the user with that name and password. Guessing is slowed
// down: see loginThrottle. The answer takes as long for an unknown user.
func (a *API) checkPassword(r *http.Request, name, pw string) (fleet.User, error) {
	addr, now := sourceKey(r), a.opts.Now()
	key := throttleName(name)
	if wait, ok := a.throttle.begin(key, addr, now); !ok {
		a.metrics.logins.WithLabelValues("throttled").Inc()
		return fleet.User{}, withStatus(elkeidUserLocked, http.StatusTooManyRequests, &throttled{wait: wait})
	}
	if a.opts.Cluster != nil {
		// Another node may have made the user, or changed its password, a moment
		// ago. Without a leader the state stands as it is here.
		if err := a.catchUp(r.Context()); err != nil {
			a.log.Debug("log-in judged by this node's state alone", "error", err)
		}
	}
	user, err := a.opts.State.Users.User(name)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		a.throttle.undo(key, addr)
		return fleet.User{}, fmt.Errorf("look up user: %w", err)
	}
	ok, err := a.opts.Passwords.Verify(r.Context(), user.PasswordHash, pw)
	switch {
	case errors.Is(err, password.ErrBusy):
		a.throttle.undo(key, addr)
		a.metrics.logins.WithLabelValues("throttled").Inc()
		return fleet.User{}, &throttled{wait: time.Second}
	case err != nil:
		a.throttle.undo(key, addr)
		return fleet.User{}, fmt.Errorf("check password of %q: %w", name, err)
	case !ok || user.Name == "":
		a.metrics.logins.WithLabelValues("failed").Inc()
		// A name that is nobody's is not logged: people type passwords there.
		a.log.Warn("log-in failed", "user", user.Name, "known_user", user.Name != "", "from", addr)
		return fleet.User{}, errWrongPassword
	}
	a.throttle.succeeded(key, addr)
	a.metrics.logins.WithLabelValues("ok").Inc()
	return user, nil
}

// throttleName cuts what cannot be a user's name, so that the tables stay small.
func throttleName(name string) string {
	if fleet.CheckUserName(name) != nil {
		return "?"
	}
	return name
}

// hashPassword refuses a password that nobody could log in with.
func (a *API) hashPassword(ctx context.Context, pw string) (string, error) {
	if pw == "" {
		return "", fleet.Invalid("password", "is empty")
	}
	if len(pw) > password.MaxBytes {
		return "", fleet.Invalid("password", "is %d bytes long, at most %d are accepted", len(pw), password.MaxBytes)
	}
	hash, err := a.opts.Passwords.Hash(ctx, pw)
	if errors.Is(err, password.ErrBusy) {
		return "", &throttled{wait: time.Second}
	}
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return hash, nil
}
