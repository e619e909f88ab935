// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"net/http"

	"muster/fleet"
	"muster/internal/apiv1"
)

// minPasswordBytes is the shortest password that can be set here; a log-in
// takes any.
const minPasswordBytes = 8

func (a *API) v1UserRoutes() []Route {
	self, admin := permit(fleet.PermSelf), permit(fleet.PermAdmin)
	return []Route{
		{
			Method: http.MethodGet, Path: "/v1/users", Access: admin, handle: a.v1Users,
			Summary: "Accounts by name.", Query: apiv1.PageQuery{}, Response: apiv1.Page[apiv1.User]{},
		},
		{
			Method: http.MethodPost, Path: "/v1/users", Access: admin, handle: withBody(a.v1CreateUser),
			Summary: "Make an account.", Request: apiv1.NewUser{}, Response: apiv1.User{}, Status: http.StatusCreated,
		},
		{
			Method: http.MethodGet, Path: "/v1/users/:name", Access: self, handle: a.v1User,
			Summary: "One account: one's own, or, for admins, anyone's.", Query: pathName{}, Response: apiv1.User{},
		},
		{
			Method: http.MethodPatch, Path: "/v1/users/:name", Access: self, handle: withBody(a.v1UpdateUser),
			Summary: "Change one's own password, or, for admins, anyone's role and password.",
			Query:   pathName{}, Request: apiv1.UserChange{}, Response: apiv1.User{},
		},
		{
			Method: http.MethodDelete, Path: "/v1/users/:name", Access: admin, handle: a.v1DeleteUser,
			Summary: "Delete an account and its tokens. The last admin stays.", Query: pathName{}, Status: http.StatusNoContent,
		},
	}
}

func (a *API) v1Users(w http.ResponseWriter, r *http.Request, _ *call) error {
	values, err := listQuery(r)
	if err != nil {
		return err
	}
	limit, after, err := limitAfter(values)
	if err != nil {
		return err
	}
	users, err := a.opts.State.Users.Users()
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, keyPageFrom(convert(users, showUser), limit, after, func(u apiv1.User) string { return u.Name }))
}

// showUser leaves out what nobody needs to see.
func showUser(u fleet.User) apiv1.User {
	return apiv1.User{
		Name: u.Name, Role: string(u.Role()), Level: u.Level,
		CreatedAt: at(u.CreatedAt), PasswordChangedAt: at(u.PasswordChangedAt),
	}
}

// levelOf reads a role or a level, of which there is at most one; nil if
// neither is given.
func levelOf(role string, level *int) (*int, error) {
	switch {
	case role != "" && level != nil:
		return nil, fleet.Invalid("level", "stands beside role: give one of them")
	case role != "":
		n, ok := fleet.Role(role).Level()
		if !ok {
			return nil, fleet.Invalid("role", "%q is none of admin, operator, viewer, task-viewer, rule-editor, rule-reader, responder", clip(role))
		}
		return &n, nil
	case level != nil:
		if _, ok := fleet.RoleOfLevel(*level); !ok {
			return nil, fleet.Invalid("level", "%d is not from 0 to 8", *level)
		}
	}
	return level, nil
}

// newPassword hashes a password that is set here.
func (a *API) newPassword(r *http.Request, password string) (string, error) {
	if len(password) < minPasswordBytes {
		return "", fleet.Invalid("password", "is %d bytes long, at least %d are needed", len(password), minPasswordBytes)
	}
	return a.hashPassword(r.Context(), password)
}

func (a *API) v1CreateUser(w http.ResponseWriter, r *http.Request, _ *call, in apiv1.NewUser) error {
	if err := fleet.CheckUserName(in.Name); err != nil {
		return refield(err, "name")
	}
	level, err := levelOf(in.Role, in.Level)
	if err != nil {
		return err
	}
	if level == nil {
		return fleet.Invalid("role", "is missing: say what the user may do, like viewer")
	}
	hash, err := a.newPassword(r, in.Password)
	if err != nil {
		return err
	}
	now := a.opts.Now().Unix()
	u := fleet.User{Name: in.Name, Level: *level, PasswordHash: hash, CreatedAt: now, PasswordChangedAt: now}
	if err := a.opts.State.Users.CreateUser(r.Context(), u); err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/users/"+u.Name)
	return respond(w, http.StatusCreated, showUser(u))
}

// refield names the field as this API does.
func refield(err error, field string) error {
	if r, ok := errors.AsType[*fleet.Refusal](err); ok {
		return &fleet.Refusal{Code: r.Code, Field: field, Detail: r.Detail}
	}
	return err
}

// ownOrAdmin refuses a caller who means somebody else's account and is no
// admin. It does not tell whether there is such an account.
func ownOrAdmin(c *call, name string) error {
	if c.caller.User == name || c.caller.May(fleet.PermAdmin) {
		return nil
	}
	return fleet.Refuse(fleet.CodeForbidden, "only an admin may look at or change the account of somebody else")
}

func (a *API) v1User(w http.ResponseWriter, _ *http.Request, c *call) error {
	if err := ownOrAdmin(c, c.param("name")); err != nil {
		return err
	}
	u, err := a.opts.State.Users.User(c.param("name"))
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, showUser(u))
}

func (a *API) v1UpdateUser(w http.ResponseWriter, r *http.Request, c *call, in apiv1.UserChange) error {
	name := c.param("name")
	if err := ownOrAdmin(c, name); err != nil {
		return err
	}
	level, err := levelOf(in.Role, in.Level)
	if err != nil {
		return err
	}
	if level != nil && !c.caller.May(fleet.PermAdmin) {
		return fleet.Refuse(fleet.CodeForbidden, "only an admin may change what a user may do")
	}
	if level == nil && in.Password == "" {
		return fleet.Refuse(fleet.CodeInvalid, "there is nothing to change: give role, level or password")
	}
	change := fleet.UserChange{Level: level}
	keep := ""
	if c.caller.User == name {
		keep = c.caller.TokenID
	}
	if in.Password != "" {
		if keep != "" {
			if err := a.checkOwnPassword(r, name, in.CurrentPassword); err != nil {
				return err
			}
		}
		hash, err := a.newPassword(r, in.Password)
		if err != nil {
			return err
		}
		change.PasswordHash = &hash
	}
	if err := a.opts.State.Users.UpdateUser(r.Context(), name, change, keep); err != nil {
		return err
	}
	u, err := a.opts.State.Users.User(name)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, showUser(u))
}

// checkOwnPassword asks for the present password before it is changed: a token
// that was left lying about must not take the account over.
func (a *API) checkOwnPassword(r *http.Request, name, current string) error {
	if current == "" {
		return fleet.Invalid("current_password", "is needed to change one's own password")
	}
	_, err := a.checkPassword(r, name, current)
	if errors.Is(err, fleet.ErrUnauthenticated) {
		return fleet.Invalid("current_password", "is not the password of %s", name)
	}
	return err
}

func (a *API) v1DeleteUser(w http.ResponseWriter, r *http.Request, c *call) error {
	if err := a.opts.State.Users.DeleteUsers(r.Context(), []string{c.param("name")}); err != nil {
		return err
	}
	return noContent(w)
}
