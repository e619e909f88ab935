// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

// tokenCmd is `muster token`.
type tokenCmd struct {
	clientFlags
	New    tokenNewCmd    `cmd:"" help:"Log in: make a token and keep it in a file."`
	List   tokenListCmd   `cmd:"" help:"List tokens: one's own, or with --all everybody's."`
	Revoke tokenRevokeCmd `cmd:"" help:"End a token."`
}

type tokenNewCmd struct {
	passwordFlags
	User    string        `help:"Log in as this user; without it, the token of --token-file makes another for its own user." placeholder:"NAME"`
	Out     string        `help:"Where to keep the token, mode 0600; - prints it. Default: ~/.config/muster/token." placeholder:"FILE"`
	Name    string        `help:"A note that tells tokens apart in lists."`
	Role    string        `help:"Narrow what the token may do: ${enum}." enum:"${roleNames}," default:"" placeholder:"ROLE"`
	Expires time.Duration `help:"How long it is good." default:"720h" placeholder:"DURATION"`
}

// Run makes a token.
func (c *tokenNewCmd) Run(a *app) error {
	out := c.Out
	if out == "" {
		out = defaultTokenFile()
	}
	if out == "" {
		return usage("--out is needed: this system does not say where settings are kept")
	}
	created, err := c.create(a)
	if err != nil {
		return err
	}
	if out == "-" {
		if a.flags.Output != "table" {
			return a.show(created, nil)
		}
		_, err := fmt.Fprintln(a.out, created.Secret)
		return err
	}
	if err := writePrivate(out, []byte(created.Secret+"\n")); err != nil {
		return err
	}
	return a.done(created.Token, "Token %s of %s (%s), good for %s, is in %s", created.ID, created.User, created.Role,
		duration(created.ExpiresAt.Sub(a.now())), out)
}

func (c *tokenNewCmd) create(a *app) (apiv1.CreatedToken, error) {
	in := apiv1.NewToken{Name: c.Name, Role: c.Role, ExpiresIn: int64(c.Expires / time.Second)}
	var client *apiclient.Client
	var err error
	if c.User == "" {
		client, err = a.client()
	} else {
		in.Username = c.User
		if in.Password, err = c.password(a, "Password of "+c.User, false); err != nil {
			return apiv1.CreatedToken{}, err
		}
		client, err = a.clientWith("")
	}
	if err != nil {
		return apiv1.CreatedToken{}, err
	}
	defer client.Close()
	var out apiv1.CreatedToken
	err = client.Do(a.ctx, http.MethodPost, "/v1/tokens", in, &out)
	if c.User != "" && apiclient.IsStatus(err, http.StatusUnauthorized) {
		// The advice to make a token would not help here.
		err = fmt.Errorf("log in as %s: wrong user name or password", c.User)
	}
	return out, err
}

type tokenListCmd struct {
	listFlags
	All bool `help:"Everybody's tokens; for admins."`
}

// Run lists tokens.
func (c *tokenListCmd) Run(a *app) error {
	query := url.Values{}
	if c.All {
		query.Set("all", "true")
	}
	tokens, err := list[apiv1.Token](a, "/v1/tokens", query, c.Limit)
	if err != nil {
		return err
	}
	t := &table{head: []string{"ID", "USER", "KIND", "NAME", "ROLE", "LAST USED", "ENDS"}}
	for _, k := range tokens {
		t.add(k.ID, k.User, k.Kind, dash(k.Name), k.Role, a.age(k.LastUsedAt), a.until(k.ExpiresAt))
	}
	return a.show(tokens, t)
}

type tokenRevokeCmd struct {
	ID string `arg:"" help:"The token's ID."`
}

// Run ends a token.
func (c *tokenRevokeCmd) Run(a *app) error {
	if err := a.call(http.MethodDelete, apiclient.Path("v1", "tokens", c.ID), nil, nil); err != nil {
		return err
	}
	return a.done(deleted{c.ID}, "Token %s has ended.", c.ID)
}
