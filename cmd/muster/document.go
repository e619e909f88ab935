// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"muster/internal/apiv1"
)

// itemMembers are those of apiv1.ConfigItem, configMembers those of
// apiv1.DefaultConfig, as people are told them.
var (
	itemMembers   = []string{"name", "type", "version", "sha256", "signature", "download_url", "detail"}
	configMembers = []string{"config", "type", "version", "revision"}
)

// readConfig reads JSON or YAML from a file, or from standard input for "-":
// a config as the node prints it, or the list of its items alone.
func (a *app) readConfig(file string) (apiv1.DefaultConfig, error) {
	var config apiv1.DefaultConfig
	text, err := a.readInput(file)
	if err != nil {
		return config, err
	}
	if file == "-" {
		file = "standard input"
	}
	var loose any
	if err := yaml.Unmarshal(text, &loose); err != nil {
		return config, fmt.Errorf("%s is neither JSON nor YAML: %w", file, err)
	}
	if items, bare := loose.([]any); bare {
		loose = map[string]any{"config": items}
	}
	if err := checkConfig(loose); err != nil {
		return config, fmt.Errorf("%s: %w", file, err)
	}
	b, err := json.Marshal(loose)
	if err != nil {
		return config, fmt.Errorf("%s: %w", file, err)
	}
	// What checkConfig lets through fits; strict all the same, so that the two
	// cannot drift apart unnoticed.
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&config); err != nil {
		return config, fmt.Errorf("%s: %w", file, err)
	}
	return config, nil
}

// checkConfig says in words what is wrong with a config that somebody typed.
func checkConfig(loose any) error {
	members, ok := loose.(map[string]any)
	items, listed := members["config"].([]any)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		value := members[name]
		switch {
		case !slices.Contains(configMembers, name):
			return fmt.Errorf("unknown member %q: a config has %s; or give a list of items alone", name, strings.Join(configMembers, ", "))
		case name == "revision":
			if _, whole := value.(int); !whole {
				return errors.New("revision must be a whole number; it is ignored, so leave it out")
			}
		case name != "config":
			if err := checkString(name, value); err != nil {
				return err
			}
		}
	}
	if !ok || !listed {
		return errors.New("there is no list of items in it: give one, alone or as the member config")
	}
	if len(items) == 0 {
		return errors.New("the list of items is empty: agents would delete their plugins")
	}
	for i, item := range items {
		if err := checkItem(fmt.Sprintf("config[%d]", i), item); err != nil {
			return err
		}
	}
	return nil
}

func checkItem(at string, loose any) error {
	members, ok := loose.(map[string]any)
	if !ok {
		return fmt.Errorf("%s is not an item with the members %s", at, strings.Join(itemMembers, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		value := members[name]
		if !slices.Contains(itemMembers, name) {
			return fmt.Errorf("%s: unknown member %q: an item has %s", at, name, strings.Join(itemMembers, ", "))
		}
		if name != "download_url" {
			if err := checkString(at+"."+name, value); err != nil {
				return err
			}
			continue
		}
		urls, ok := value.([]any)
		if !ok {
			return fmt.Errorf("%s.download_url must be a list of strings, like [https://mirror/driver.tar.gz]", at)
		}
		for i, url := range urls {
			if err := checkString(fmt.Sprintf("%s.download_url[%d]", at, i), url); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkString refuses what YAML reads as a number, a truth or a date: its text
// would not come back as it was typed.
func checkString(at string, value any) error {
	switch value.(type) {
	case string:
		return nil
	case nil:
		return fmt.Errorf("%s has no value: give a string, or leave it out", at)
	case []any, map[string]any, map[any]any:
		return fmt.Errorf("%s must be a string", at)
	}
	return fmt.Errorf("%s must be a string: quote it", at)
}

// readInput reads a file whole, or standard input for "-".
func (a *app) readInput(file string) ([]byte, error) {
	if file == "-" {
		b, err := io.ReadAll(a.in)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return b, nil
	}
	return os.ReadFile(file)
}
