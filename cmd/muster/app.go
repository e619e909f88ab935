// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"muster/internal/apiclient"
)

// clientFlags are those of every command that asks a node.
type clientFlags struct {
	Addr      string `help:"The node's URL." default:"http://127.0.0.1:6701" env:"MUSTER_ADDR" placeholder:"URL"`
	TokenFile string `help:"File with the API token (default: ~/.config/muster/token, if it exists)." env:"MUSTER_TOKEN_FILE" placeholder:"FILE" type:"path"`
	CA        string `help:"File with the CA certificate of the node, PEM, for https." name:"ca" env:"MUSTER_CA" placeholder:"FILE" type:"path"`
	Output    string `help:"How to print: ${enum}." short:"o" enum:"table,json,yaml" default:"table"`
}

// AfterApply hands the flags to the app; kong calls it.
func (f *clientFlags) AfterApply(a *app) error {
	a.flags = f
	return nil
}

// app is what each command's Run gets.
type app struct {
	streams
	ctx   context.Context
	flags *clientFlags // nil for commands that ask no node
	// missing are the nodes of which it was said that they did not answer.
	missing string
}

// usageError is a command line that kong accepts and that says nothing useful.
type usageError struct{ text string }

func (u usageError) Error() string { return u.text }

func usage(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// report prints an error in one line, several that are joined in one each, and
// returns the exit code.
func (a *app) report(err error) int {
	if err == nil {
		return exitOK
	}
	for _, one := range each(err) {
		_, _ = fmt.Fprintln(a.err, "muster:", strings.ReplaceAll(a.explain(one), "\n", " "))
	}
	if _, wrong := errors.AsType[usageError](err); wrong {
		return exitUsage
	}
	return exitFailed
}

// each returns what errors.Join has joined, or else the error itself.
func each(err error) (all []error) {
	joined, ok := err.(interface{ Unwrap() []error }) // what wraps several says more than they do
	if !ok || errors.Join(joined.Unwrap()...).Error() != err.Error() {
		return []error{err}
	}
	for _, one := range joined.Unwrap() {
		all = append(all, each(one)...)
	}
	return all
}

// explain adds what to do next, where the command line knows it better than
// the node.
func (a *app) explain(err error) string {
	switch {
	case errors.Is(err, context.Canceled) && a.ctx.Err() != nil:
		return "interrupted"
	case apiclient.IsStatus(err, http.StatusUnauthorized):
		return err.Error() + " (make a token: muster token new --user NAME --password-file FILE)"
	case apiclient.IsStatus(err, http.StatusForbidden) && !strings.Contains(err.Error(), "plain HTTP"):
		return err.Error() + " (see whose token this is: muster token list)"
	}
	return err.Error()
}

// client makes a client of the node, with the token if there is one.
func (a *app) client() (*apiclient.Client, error) {
	token, err := a.token()
	if err != nil {
		return nil, err
	}
	return a.clientWith(token)
}

// clientWith makes a client with that token, which may be empty.
func (a *app) clientWith(token string) (*apiclient.Client, error) {
	opts := apiclient.Options{Addr: a.flags.Addr, Token: token, UserAgent: "muster/" + buildVersion()}
	if a.flags.CA != "" {
		pem, err := os.ReadFile(a.flags.CA)
		if err != nil {
			return nil, fmt.Errorf("read --ca: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca %s holds no certificate in PEM", a.flags.CA)
		}
		opts.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	opts.Missing = func(nodes []string) {
		if missing := strings.Join(nodes, ", "); missing != a.missing { // a list has many pages
			a.missing = missing
			_, _ = fmt.Fprintf(a.err, "muster: no answer from %s: what only they know is missing or old here\n", missing)
		}
	}
	client, err := apiclient.New(opts)
	if err != nil {
		return nil, usage("--%v", err)
	}
	return client, nil
}

// token reads the token file. Without --token-file a missing one is no fault:
// the node will say that it wants a token.
func (a *app) token() (string, error) {
	file := a.flags.TokenFile
	if file == "" {
		file = defaultTokenFile()
	}
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && a.flags.TokenFile == "" {
		return "", nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no token file %[1]s: make one: muster token new --user NAME --password-file FILE --out %[1]s", file)
	}
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("the token file %s is empty", file)
	}
	return token, nil
}

// defaultTokenFile is where a token is kept when no file is named; empty when
// the system does not say where settings belong.
func defaultTokenFile() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "muster", "token")
}

// call sends one request with the token of the flags.
func (a *app) call(method, path string, in, out any) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Do(a.ctx, method, path, in, out)
}

// writePrivate writes a file that only its owner may read, whole or not at all.
func writePrivate(file string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("make the directory of %s: %w", file, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".muster-*") // made with 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Sync()
	}
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
