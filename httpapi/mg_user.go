// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"muster/fleet"
)

const (
	maxAvatarBytes = 16 << 10
	maxUsersAtOnce = 1000
	hidden         = "***"
)

// errNotYours is what Elkeid says to who reaches for another's account.
var errNotYours = withCode(elkeidUnknown, fleet.Refuse(fleet.CodeForbidden, "permission denied"))

// userRoutes are Elkeid's routes about accounts.
func (a *API) userRoutes() []Route {
	route := func(method, path string, access Access, summary string, h handlerFunc) Route {
		return Route{Method: method, Path: path, Listeners: listenersAPI, Access: access, Summary: summary, handle: h}
	}
	self, admin := permit(fleet.PermSelf), permit(fleet.PermAdmin)
	return []Route{
		route(http.MethodPost, "/api/v1/user/login", open(), "Log in.", a.userLogin),
		route(http.MethodGet, "/api/v1/user/logout", self, "End the token.", a.userLogout),
		route(http.MethodGet, "/api/v1/user/info", self, "One's own account.", a.userInfo),
		route(http.MethodPost, "/api/v1/user/update", admin, "Change an account's level or avatar.", a.userUpdate),
		route(http.MethodPost, "/api/v1/user/del", admin, "Delete an account.", a.userDelete),
		route(http.MethodPost, "/api/v1/user/resetPassword", self, "Change one's own password.", a.userResetPassword),
		route(http.MethodPost, "/api/v1/user/checkUser", self, "Check one's own password.", a.userCheck),
		route(http.MethodPost, "/api/v6/user/new", admin, "Make an account.", a.userNew),
		route(http.MethodPost, "/api/v6/user/List", self, "Accounts; those who are no admin see their own.", a.userList),
		route(http.MethodPost, "/api/v6/user/DelList", admin, "Delete accounts, all or none.", a.userDeleteList),
	}
}

// userBody is the body of most of these routes.
type userBody struct {
	Username string  `json:"username"`
	Password string  `json:"password"`
	Level    *int    `json:"level"`
	Avatar   *string `json:"avatar"`
}

func decodeUser(r *http.Request) (userBody, error) {
	var b userBody
	if err := decodeJSON(r, &b); err != nil {
		return b, err
	}
	if b.Username == "" {
		return b, fleet.Invalid("username", "is missing")
	}
	if b.Level != nil {
		if _, ok := fleet.RoleOfLevel(*b.Level); !ok {
			return b, fleet.Invalid("level", "%d is not between 0 and 8", *b.Level)
		}
	}
	if b.Avatar != nil && len(*b.Avatar) > maxAvatarBytes {
		return b, fleet.Invalid("avatar", "is %d bytes long, at most %d are accepted", len(*b.Avatar), maxAvatarBytes)
	}
	return b, nil
}

func (a *API) userLogin(w http.ResponseWriter, r *http.Request, _ *call) error {
	w.Header().Set("Cache-Control", "no-store")
	b, err := decodeUser(r)
	if err != nil {
		return err
	}
	text, err := a.logIn(r, b.Username, b.Password)
	if err != nil {
		return wrongPassword(err)
	}
	return succeed(w, map[string]string{"token": text})
}

// wrongPassword answers as Elkeid does: status 200, code 1.
func wrongPassword(err error) error {
	if errors.Is(err, fleet.ErrUnauthenticated) {
		return withCode(elkeidAuthFailed, err)
	}
	return err
}

func (a *API) userLogout(w http.ResponseWriter, r *http.Request, c *call) error {
	err := a.opts.State.Tokens.RevokeToken(r.Context(), c.caller.TokenID)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return fmt.Errorf("revoke token: %w", err)
	}
	return succeed(w, nil)
}

// userInfo is an account as its owner sees it, in Elkeid's shape.
type userInfo struct {
	Username string   `json:"username"`
	Password string   `json:"password"`
	Salt     string   `json:"salt"`
	Avatar   string   `json:"avatar"`
	Level    int      `json:"level"`
	Config   []string `json:"config"`
	XML      string   `json:"xml"`
	Changed  int64    `json:"password_update_time"`
}

func (a *API) userInfo(w http.ResponseWriter, _ *http.Request, c *call) error {
	u, err := a.opts.State.Users.User(c.caller.User)
	if err != nil {
		return fmt.Errorf("look up user: %w", err)
	}
	return succeed(w, userInfo{
		Username: u.Name, Password: hidden, Salt: hidden, Avatar: u.Avatar, Level: u.Level,
		Config: []string{}, Changed: u.PasswordChangedAt,
	})
}

func (a *API) userUpdate(w http.ResponseWriter, r *http.Request, c *call) error {
	b, err := decodeUser(r)
	if err != nil {
		return err
	}
	change := fleet.UserChange{Level: b.Level, Avatar: b.Avatar}
	if err := a.opts.State.Users.UpdateUser(r.Context(), b.Username, change, keepOwn(c, b.Username)); err != nil {
		return unknownUser(fmt.Errorf("update user: %w", err))
	}
	return succeed(w, "ok")
}

// keepOwn is the token that outlives a change of the caller's own account.
func keepOwn(c *call, name string) string {
	if name == c.caller.User {
		return c.caller.TokenID
	}
	return ""
}

// unknownUser answers as Elkeid does about a user that there is not.
func unknownUser(err error) error {
	if errors.Is(err, fleet.ErrNotFound) {
		return withCode(elkeidUnknown, err)
	}
	return err
}

func (a *API) userDelete(w http.ResponseWriter, r *http.Request, _ *call) error {
	b, err := decodeUser(r)
	if err != nil {
		return err
	}
	return a.deleteUsers(w, r, []string{b.Username})
}

func (a *API) userDeleteList(w http.ResponseWriter, r *http.Request, _ *call) error {
	var b struct {
		Names []string `json:"userNameList"`
	}
	if err := decodeJSON(r, &b); err != nil {
		return err
	}
	if len(b.Names) == 0 || len(b.Names) > maxUsersAtOnce {
		return fleet.Invalid("userNameList", "holds %d names, 1 to %d are accepted", len(b.Names), maxUsersAtOnce)
	}
	slices.Sort(b.Names)
	return a.deleteUsers(w, r, slices.Compact(b.Names))
}

func (a *API) deleteUsers(w http.ResponseWriter, r *http.Request, names []string) error {
	if err := a.opts.State.Users.DeleteUsers(r.Context(), names); err != nil {
		return unknownUser(fmt.Errorf("delete users: %w", err))
	}
	return succeed(w, "ok")
}

func (a *API) userResetPassword(w http.ResponseWriter, r *http.Request, c *call) error {
	b, err := decodeUser(r)
	if err != nil {
		return err
	}
	if b.Username != c.caller.User {
		return errNotYours
	}
	hash, err := a.hashPassword(r.Context(), b.Password)
	if err != nil {
		return err
	}
	change := fleet.UserChange{PasswordHash: &hash}
	if err := a.opts.State.Users.UpdateUser(r.Context(), b.Username, change, c.caller.TokenID); err != nil {
		return unknownUser(fmt.Errorf("change password: %w", err))
	}
	return succeed(w, "ok")
}

func (a *API) userCheck(w http.ResponseWriter, r *http.Request, c *call) error {
	b, err := decodeUser(r)
	if err != nil {
		return err
	}
	if b.Username != c.caller.User {
		return errNotYours
	}
	_, err = a.checkPassword(r, b.Username, b.Password)
	if err != nil && !errors.Is(err, fleet.ErrUnauthenticated) {
		return err
	}
	return succeed(w, map[string]bool{"if_check": err == nil})
}

func (a *API) userNew(w http.ResponseWriter, r *http.Request, _ *call) error {
	b, err := decodeUser(r)
	if err != nil {
		return err
	}
	if err := fleet.CheckUserName(b.Username); err != nil {
		return err
	}
	if b.Level == nil {
		return fleet.Invalid("level", "is missing: 0 admin, 2 operator, 3 viewer, 4 rule editor, 5 rule reader, 6 responder, 7 viewer who may run tasks of plugins")
	}
	hash, err := a.hashPassword(r.Context(), b.Password)
	if err != nil {
		return err
	}
	now := a.opts.Now().Unix()
	u := fleet.User{Name: b.Username, Level: *b.Level, PasswordHash: hash, CreatedAt: now, PasswordChangedAt: now}
	if b.Avatar != nil {
		u.Avatar = *b.Avatar
	}
	if err := a.opts.State.Users.CreateUser(r.Context(), u); err != nil {
		return fmt.Errorf("create user: %w", err)
	}
	return succeed(w, "ok")
}

// listedUser is an account in Elkeid's list.
type listedUser struct {
	Username     string   `json:"username"`
	Level        int      `json:"level"`
	SourceIPList []string `json:"source_ip_list"`
	IPLimit      bool     `json:"ip_limit"`
	OTPEnable    bool     `json:"otp_enable"`
}

func (a *API) userList(w http.ResponseWriter, r *http.Request, c *call) error {
	var b struct {
		Username string `json:"username"`
		Role     []int  `json:"role"`
	}
	if err := decodeJSON(r, &b); err != nil {
		return err
	}
	q, err := parsePage(r)
	if err != nil {
		return err
	}
	users, err := a.opts.State.Users.Users()
	if err != nil {
		return fmt.Errorf("list users: %w", err)
	}
	var all []found[listedUser]
	for _, u := range users {
		switch {
		case u.Name != c.caller.User && !c.caller.May(fleet.PermAdmin),
			b.Username != "" && !matchFold(u.Name, b.Username),
			len(b.Role) > 0 && !slices.Contains(b.Role, u.Level):
			continue
		}
		item := found[listedUser]{what: listedUser{Username: u.Name, Level: u.Level, SourceIPList: []string{}}}
		switch q.OrderKey {
		case "username":
			item.order = u.Name
		case "level":
			item.order = float64(u.Level)
		}
		all = append(all, item)
	}
	items := make([]listedUser, 0, q.Size)
	for _, f := range arrange(all, q) {
		items = append(items, f.what)
	}
	writeJSON(w, http.StatusOK, envelope{
		Msg: elkeidMessages[elkeidSuccess], Data: items,
		PageInfo: &pageInfo{Total: len(all), Page: q.Page, PageSize: q.Size},
	})
	return nil
}
