// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"strconv"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

// userCmd is `muster user`.
type userCmd struct {
	clientFlags
	List     userListCmd     `cmd:"" help:"List accounts."`
	Add      userAddCmd      `cmd:"" help:"Make an account."`
	Passwd   userPasswdCmd   `cmd:"" help:"Change a password: one's own, or, as an admin, anyone's."`
	SetLevel userSetLevelCmd `cmd:"" help:"Change what a user may do."`
	Del      userDelCmd      `cmd:"" help:"Delete an account and its tokens."`
}

type userListCmd struct {
	listFlags
}

// Run lists accounts.
func (c *userListCmd) Run(a *app) error {
	users, err := list[apiv1.User](a, "/v1/users", nil, c.Limit)
	if err != nil {
		return err
	}
	t := &table{head: []string{"NAME", "ROLE", "LEVEL", "CREATED", "PASSWORD CHANGED"}}
	for _, u := range users {
		t.add(u.Name, dash(u.Role), strconv.Itoa(u.Level), a.age(u.CreatedAt), a.age(u.PasswordChangedAt))
	}
	return a.show(users, t)
}

type userAddCmd struct {
	passwordFlags
	Name string `arg:"" help:"The account's name."`
	Role string `help:"${enum}, or Elkeid's level, 0 to 8." required:"" enum:"${roles}" placeholder:"ROLE"`
}

// Run makes an account.
func (c *userAddCmd) Run(a *app) error {
	password, err := c.password(a, "Password of "+c.Name, true)
	if err != nil {
		return err
	}
	in := apiv1.NewUser{Name: c.Name, Password: password}
	in.Role, in.Level = roleOrLevel(c.Role)
	var out apiv1.User
	if err := a.call(http.MethodPost, "/v1/users", in, &out); err != nil {
		return err
	}
	return a.done(out, "User %s is %s.", out.Name, out.Role)
}

// roleOrLevel takes a role's name or Elkeid's number.
func roleOrLevel(text string) (role string, level *int) {
	if n, err := strconv.Atoi(text); err == nil {
		return "", &n
	}
	return text, nil
}

type userPasswdCmd struct {
	passwordFlags
	Name                string `arg:"" help:"The account's name."`
	CurrentPasswordFile string `help:"File with the present password, needed for one's own account; - reads standard input." placeholder:"FILE"`
}

// Run changes a password.
func (c *userPasswdCmd) Run(a *app) error {
	var in apiv1.UserChange
	if c.CurrentPasswordFile != "" {
		current, err := a.passwordFrom(c.CurrentPasswordFile)
		if err != nil {
			return err
		}
		in.CurrentPassword = current
	}
	password, err := c.password(a, "New password of "+c.Name, true)
	if err != nil {
		return err
	}
	in.Password = password
	var out apiv1.User
	if err := a.call(http.MethodPatch, apiclient.Path("v1", "users", c.Name), in, &out); err != nil {
		return err
	}
	return a.done(out, "The password of %s is changed; its other tokens have ended.", out.Name)
}

type userSetLevelCmd struct {
	Name string `arg:"" help:"The account's name."`
	Role string `arg:"" name:"level" help:"${enum}: a role, or Elkeid's level." enum:"${roles}"`
}

// Run changes a role.
func (c *userSetLevelCmd) Run(a *app) error {
	var in apiv1.UserChange
	in.Role, in.Level = roleOrLevel(c.Role)
	var out apiv1.User
	if err := a.call(http.MethodPatch, apiclient.Path("v1", "users", c.Name), in, &out); err != nil {
		return err
	}
	return a.done(out, "User %s is %s now; its tokens have ended.", out.Name, out.Role)
}

type userDelCmd struct {
	Name string `arg:"" help:"The account's name."`
}

// Run deletes an account.
func (c *userDelCmd) Run(a *app) error {
	if err := a.call(http.MethodDelete, apiclient.Path("v1", "users", c.Name), nil, nil); err != nil {
		return err
	}
	return a.done(deleted{c.Name}, "User %s is deleted.", c.Name)
}

// deleted is what programs read after a deletion.
type deleted struct {
	Deleted string `json:"deleted"`
}
