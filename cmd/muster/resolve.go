// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// onceOnly are the flags that only the command line may give: the file's own
// name, and what must not be repeated at each start.
var onceOnly = []string{"config", "recover", "yes"}

// resolver answers for flags that were not given on the command line, from the
// environment first, then from a file.
type resolver struct {
	env  func(name string) (string, bool)
	file map[string]string
}

// newResolver reads the file, if one is named. A key in it that is none of the
// known flags is an error.
func newResolver(known []*kong.Flag, env func(string) (string, bool), file string) (*resolver, error) {
	r := &resolver{env: env}
	for _, name := range onceOnly[1:] {
		if _, set := env(envName(name)); set {
			return nil, fmt.Errorf("%s: --%s is for one start and stands on the command line only", envName(name), name)
		}
	}
	if file == "" {
		return r, nil
	}
	var err error
	if r.file, err = readSettings(file); err != nil {
		return nil, err
	}
	for key := range r.file {
		if slices.Contains(onceOnly, key) || !slices.ContainsFunc(known, func(f *kong.Flag) bool { return f.Name == key }) {
			return nil, fmt.Errorf("%s: unknown key %q: keys are the names of the flags of 'muster server'", file, key)
		}
	}
	return r, nil
}

// readSettings reads a flat YAML mapping; a list becomes its items with commas
// between them, as the flag would be given.
func readSettings(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read --config: %w", err)
	}
	defer f.Close()
	var raw map[string]yaml.Node
	if err := yaml.NewDecoder(f).Decode(&raw); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("--config %s: %w", file, err)
	}
	out := make(map[string]string, len(raw))
	for key, value := range raw {
		switch value.Kind {
		case yaml.ScalarNode:
			out[key] = value.Value
		case yaml.SequenceNode:
			items := make([]string, len(value.Content))
			for i, item := range value.Content {
				if item.Kind != yaml.ScalarNode {
					return nil, fmt.Errorf("--config %s: the list %q holds something that is no single value", file, key)
				}
				items[i] = item.Value
			}
			out[key] = strings.Join(items, ",")
		default:
			return nil, fmt.Errorf("--config %s: %q is neither a value nor a list of values", file, key)
		}
	}
	return out, nil
}

// envName is the variable of a flag.
func envName(flag string) string {
	return "MUSTER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Validate has nothing to add; kong calls it.
func (r *resolver) Validate(*kong.Application) error { return nil }

// Resolve answers for one flag; nil means that nothing is known. Kong calls it.
func (r *resolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if slices.Contains(onceOnly, flag.Name) {
		return nil, nil
	}
	if v, ok := r.env(envName(flag.Name)); ok {
		return v, nil
	}
	if v, ok := r.file[flag.Name]; ok {
		return v, nil
	}
	return nil, nil
}
