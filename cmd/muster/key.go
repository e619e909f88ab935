// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

// keyCmd is `muster key`.
type keyCmd struct {
	clientFlags
	List keyListCmd `cmd:"" help:"List AK/SK pairs, without their secrets."`
	Add  keyAddCmd  `cmd:"" help:"Make or import a pair."`
	Del  keyDelCmd  `cmd:"" help:"Delete a pair."`
}

type keyListCmd struct {
	listFlags
}

// Run lists pairs.
func (c *keyListCmd) Run(a *app) error {
	keys, err := list[apiv1.Key](a, "/v1/keys", nil, c.Limit)
	if err != nil {
		return err
	}
	t := &table{head: []string{"ACCESS KEY", "SCOPE", "CREATED", "NOTE"}}
	for _, k := range keys {
		t.add(k.AccessKey, k.Scope, a.age(k.CreatedAt), dash(k.Note))
	}
	return a.show(keys, t)
}

type keyAddCmd struct {
	Scope      string `help:"${enum}. sd: register and evict services. agents: /conn/* and /command/." enum:"sd,agents" required:""`
	Note       string `help:"What it is for."`
	Import     string `help:"An existing pair; it can be seen in the process list, --import-file cannot." placeholder:"AK:SK" xor:"import"`
	ImportFile string `help:"File with AK:SK; - reads standard input." placeholder:"FILE" xor:"import"`
}

// Run makes a pair.
func (c *keyAddCmd) Run(a *app) error {
	in := apiv1.NewKey{Scope: c.Scope, Note: c.Note, Import: c.Import}
	if c.ImportFile != "" {
		text, err := a.readInput(c.ImportFile)
		if err != nil {
			return err
		}
		in.Import = strings.TrimSpace(string(text))
	}
	var out apiv1.CreatedKey
	if err := a.call(http.MethodPost, "/v1/keys", in, &out); err != nil {
		return err
	}
	t := &table{}
	t.add("Access key", out.AccessKey)
	t.add("Secret key", out.SecretKey)
	t.add("Scope", out.Scope)
	if a.flags.Output == "table" {
		_, _ = fmt.Fprintln(a.err, "Keep the secret key: it is shown this once.")
	}
	return a.show(out, t)
}

type keyDelCmd struct {
	AccessKey string `arg:"" help:"The access key."`
}

// Run deletes a pair.
func (c *keyDelCmd) Run(a *app) error {
	if err := a.call(http.MethodDelete, apiclient.Path("v1", "keys", c.AccessKey), nil, nil); err != nil {
		return err
	}
	return a.done(deleted{c.AccessKey}, "Key %s is deleted; requests signed with it are refused now.", c.AccessKey)
}

// pkiCmd is `muster pki`.
type pkiCmd struct {
	clientFlags
	AgentBundle pkiAgentBundleCmd `cmd:"" help:"Make the certificate files of an agent, or of all agents."`
}

type pkiAgentBundleCmd struct {
	Name    string `help:"Make a fleet certificate of this name, good for any agent: what stock agents have." placeholder:"NAME" xor:"whose"`
	AgentID string `help:"Make a certificate that is good for this agent alone." placeholder:"ID" xor:"whose"`
	Out     string `help:"Directory for ca.crt, client.crt and client.key." required:"" placeholder:"DIR"`
	Force   bool   `help:"Replace files that are there already."`
}

// bundleFiles are made by agent-bundle.
var bundleFiles = [...]string{"ca.crt", "client.crt", "client.key"}

// checkFree refuses to replace files: the key of agents that run exists nowhere
// else.
func (c *pkiAgentBundleCmd) checkFree() error {
	if c.Force {
		return nil
	}
	for _, name := range bundleFiles {
		file := filepath.Join(c.Out, name)
		switch _, err := os.Lstat(file); {
		case err == nil:
			return fmt.Errorf("%s exists: name another --out, or replace what is there with --force", file)
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("look into --out: %w", err)
		}
	}
	return nil
}

// Run makes and keeps the files.
func (c *pkiAgentBundleCmd) Run(a *app) error {
	in := apiv1.NewAgentBundle{Kind: "fleet", Name: c.Name}
	switch {
	case c.AgentID != "":
		in = apiv1.NewAgentBundle{Kind: "agent", AgentID: c.AgentID}
	case c.Name == "":
		return usage("whose? give --name NAME for all agents, or --agent-id ID for one")
	}
	if err := c.checkFree(); err != nil {
		return err
	}
	var out apiv1.AgentBundle
	if err := a.call(http.MethodPost, "/v1/pki/agent-bundles", in, &out); err != nil {
		return err
	}
	for i, pem := range []string{out.CA, out.Cert, out.Key} {
		if err := writePrivate(filepath.Join(c.Out, bundleFiles[i]), []byte(pem)); err != nil {
			return err
		}
	}
	return a.done(struct {
		Dir      string `json:"dir"`
		NotAfter string `json:"not_after"`
	}{c.Out, out.NotAfter.UTC().Format("2006-01-02T15:04:05Z")},
		"ca.crt, client.crt and client.key are in %s; the certificate ends %s (%s).", c.Out,
		a.until(out.NotAfter), out.NotAfter.UTC().Format("2006-01-02"))
}
