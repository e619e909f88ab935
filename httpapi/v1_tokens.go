// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"muster/fleet"
	"muster/internal/apiv1"
)

// Limits of tokens made here.
const (
	defaultTokenSeconds = 30 * 24 * 3600
	minTokenSeconds     = 60
	maxTokenSeconds     = 366 * 24 * 3600
	maxTokenNameBytes   = 64
)

func (a *API) v1TokenRoutes() []Route {
	self := permit(fleet.PermSelf)
	return []Route{
		{
			Method: http.MethodGet, Path: "/v1/tokens", Access: self, handle: a.v1Tokens,
			Summary: "One's own tokens, or, for admins with ?all=true, everybody's; without their secrets.",
			Query: struct {
				apiv1.PageQuery
				All bool `query:"all" description:"Everybody's; for admins."`
			}{}, Response: apiv1.Page[apiv1.Token]{},
		},
		{
			Method: http.MethodPost, Path: "/v1/tokens", Access: open(), handle: withBody(a.v1CreateToken),
			Summary: "Log in: make a token, with a user name and password, or with a token for the same user. The secret is shown this once.",
			Request: apiv1.NewToken{}, Response: apiv1.CreatedToken{}, Status: http.StatusCreated,
		},
		{
			Method: http.MethodDelete, Path: "/v1/tokens/:id", Access: self, handle: a.v1RevokeToken,
			Summary: "End a token: one's own, or, for admins, anyone's.", Query: pathID{}, Status: http.StatusNoContent,
		},
	}
}

func (a *API) v1Tokens(w http.ResponseWriter, r *http.Request, c *call) error {
	values, err := listQuery(r, "all")
	if err != nil {
		return err
	}
	limit, after, err := limitAfter(values)
	if err != nil {
		return err
	}
	whose := c.caller.User
	switch values.Get("all") {
	case "", "false":
	case "true":
		if !c.caller.May(fleet.PermAdmin) {
			return fleet.Refuse(fleet.CodeForbidden, "only an admin may list the tokens of others")
		}
		whose = ""
	default:
		return fleet.Invalid("all", "%q is neither true nor false", clip(values.Get("all")))
	}
	tokens, err := a.opts.State.Tokens.Tokens(whose)
	if err != nil {
		return err
	}
	now := a.opts.Now().Unix()
	tokens = slices.DeleteFunc(slices.Clone(tokens), func(t fleet.Token) bool { return !t.ValidAt(now) })
	slices.SortFunc(tokens, func(x, y fleet.Token) int { return strings.Compare(x.ID, y.ID) })
	roles := map[string]fleet.Role{}
	shown := convert(tokens, func(t fleet.Token) apiv1.Token { return showToken(t, a.roleOf(t, roles)) })
	return respond(w, http.StatusOK, keyPageFrom(shown, limit, after, func(t apiv1.Token) string { return t.ID }))
}

// roleOf is what the token may do: its own role, else its user's; known is a
// memory of users' roles.
func (a *API) roleOf(t fleet.Token, known map[string]fleet.Role) fleet.Role {
	if t.Role != "" {
		return t.Role
	}
	role, ok := known[t.User]
	if !ok {
		if u, err := a.opts.State.Users.User(t.User); err == nil {
			role = u.Role()
		}
		known[t.User] = role
	}
	return role
}

func showToken(t fleet.Token, role fleet.Role) apiv1.Token {
	return apiv1.Token{
		ID: t.ID, User: t.User, Kind: string(t.Kind), Name: t.Name, Role: string(role),
		CreatedAt: at(t.CreatedAt), ExpiresAt: at(t.ExpiresAt), LastUsedAt: at(t.LastUsedAt),
	}
}

// v1CreateToken is an open route: it checks its credential itself, a password
// in the body or a token in the header.
func (a *API) v1CreateToken(w http.ResponseWriter, r *http.Request, c *call, in apiv1.NewToken) error {
	w.Header().Set("Cache-Control", "no-store")
	if err := a.checkTransport(r, c); err != nil {
		return err
	}
	if err := checkNewToken(in); err != nil {
		return err
	}
	who, narrow, err := a.tokenOwner(r, in)
	if err != nil {
		return err
	}
	if wider(fleet.Role(in.Role), who.Role()) {
		return fleet.Invalid("role", "%s may do more than %s, the role of %s: a token only narrows what its user may do", in.Role, who.Role(), who.Name)
	}
	text, hash := newToken()
	now := a.opts.Now()
	t := fleet.Token{
		ID: newID(now), Hash: hash, User: who.Name, Kind: fleet.TokenAPI, Name: in.Name, Role: narrow,
		CreatedAt: now.Unix(), LastUsedAt: now.Unix(), ExpiresAt: now.Add(time.Duration(in.ExpiresIn) * time.Second).Unix(),
	}
	if in.ExpiresIn == 0 {
		t.ExpiresAt = now.Unix() + defaultTokenSeconds
	}
	if err := a.opts.State.Tokens.CreateToken(r.Context(), t); err != nil {
		return err
	}
	role := t.Role
	if role == "" {
		role = who.Role()
	}
	return respond(w, http.StatusCreated, apiv1.CreatedToken{Token: showToken(t, role), Secret: text})
}

func checkNewToken(in apiv1.NewToken) error {
	if (in.Username == "") != (in.Password == "") {
		return fleet.Refuse(fleet.CodeInvalid, "username and password go together; leave both out to use a token")
	}
	if len(in.Name) > maxTokenNameBytes {
		return fleet.Invalid("name", "is %d bytes long, at most %d are accepted", len(in.Name), maxTokenNameBytes)
	}
	if in.ExpiresIn != 0 && (in.ExpiresIn < minTokenSeconds || in.ExpiresIn > maxTokenSeconds) {
		return fleet.Invalid("expires_in", "%d is not from %d to %d seconds", in.ExpiresIn, minTokenSeconds, maxTokenSeconds)
	}
	if in.Role != "" {
		if _, ok := fleet.Role(in.Role).Level(); !ok {
			return fleet.Invalid("role", "%q is not a role", clip(in.Role))
		}
	}
	return nil
}

// tokenOwner finds for whom the token is made, and the role that narrows it.
// A token never makes one that may do more than itself.
func (a *API) tokenOwner(r *http.Request, in apiv1.NewToken) (fleet.User, fleet.Role, error) {
	role := fleet.Role(in.Role)
	if in.Username != "" {
		u, err := a.checkPassword(r, in.Username, in.Password)
		return u, role, err
	}
	who, err := a.authenticate(r, permit(fleet.PermSelf))
	if err != nil {
		return fleet.User{}, "", err
	}
	if role == "" {
		role = who.narrow
	}
	for _, p := range allPermissions() {
		if role != "" && role.May(p) && who.Role.May(p) && !who.May(p) {
			return fleet.User{}, "", fleet.Refuse(fleet.CodeForbidden, "a token for %s may not make one for %s", who.narrow, role)
		}
	}
	u, err := a.opts.State.Users.User(who.User)
	return u, role, err
}

// wider tells whether a role grants something that the other does not.
func wider(role, than fleet.Role) bool {
	return slices.ContainsFunc(allPermissions(), func(p fleet.Permission) bool { return role.May(p) && !than.May(p) })
}

func allPermissions() []fleet.Permission {
	return []fleet.Permission{
		fleet.PermSelf, fleet.PermFleetRead, fleet.PermFleetWrite, fleet.PermTaskRun,
		fleet.PermRuleRead, fleet.PermRuleWrite, fleet.PermAlertWrite, fleet.PermAdmin,
	}
}

func (a *API) v1RevokeToken(w http.ResponseWriter, r *http.Request, c *call) error {
	id := c.param("id")
	if !c.caller.May(fleet.PermAdmin) {
		own, err := a.opts.State.Tokens.Tokens(c.caller.User)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(own, func(t fleet.Token) bool { return t.ID == id }) {
			return fleet.Refuse(fleet.CodeNotFound, "you have no token with the ID %q", clip(id))
		}
	}
	if err := a.opts.State.Tokens.RevokeToken(r.Context(), id); err != nil {
		return err
	}
	return noContent(w)
}
