// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// A config is typed by hand: what is wrong with it is said in words, before a
// node is asked.
func TestConfigDocuments(t *testing.T) {
	const members = "name, type, version, sha256, signature, download_url, detail"
	set := []string{"agent", "default-config", "set", "--file", "-"}
	create := []string{"task", "create", "--all", "--config-file", "-"}
	both := [][]string{set, create}
	tests := []struct {
		name, text string
		commands   [][]string
		err        string
	}{
		{"number", "- {name: driver, version: 1.7}", both, "config[0].version must be a string: quote it"},
		{"number in JSON", `{"config":[{"name":"a"},{"name":"b","version":1.7}]}`, both, "config[1].version must be a string: quote it"},
		{"date", "- {name: driver, version: 2026-03-14}", both, "config[0].version must be a string: quote it"},
		{"no value", "- {name: driver, version: }", both, "config[0].version has no value"},
		{"nested", "- {name: [driver]}", both, "config[0].name must be a string"},
		{"misspelt", "- {nam: driver}", both, `config[0]: unknown member "nam": an item has ` + members},
		{"no item", "- driver", both, "config[0] is not an item with the members " + members},
		{"one URL", "- {name: driver, download_url: https://x/y}", both, "config[0].download_url must be a list of strings"},
		{"odd URL", "- {name: driver, download_url: [1]}", both, "config[0].download_url[0] must be a string"},
		{"member of the config", "{confg: []}", both, `unknown member "confg": a config has config, type, version, revision`},
		{"version of the config", "{config: [], version: 1}", both, "version must be a string: quote it"},
		{"revision", "{config: [], revision: x}", both, "revision must be a whole number"},
		{"names that are no text", "{1: x}", both, "no list of items"},
		{"nothing", "", both, "no list of items"},
		{"text", "driver", both, "no list of items"},
		{"null", "config:", both, "no list of items"},
		{"half", "{config: [", both, "neither JSON nor YAML"},
		{"empty", "config: []", both, "the list of items is empty"},
		{"empty list", "[]", both, "the list of items is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, command := range tt.commands {
				f := newFakeNode(t, someAnswers())
				r := f.muster(t, tt.text, command...)
				if r.code != exitFailed || !strings.Contains(r.err, tt.err) || strings.Contains(r.err, "apiv1") {
					t.Errorf("%v: exit code %d, %q; want %q", command, r.code, r.err, tt.err)
				}
				if len(f.asked) > 0 {
					t.Errorf("%v: asked %v", command, f.asked)
				}
			}
		})
	}
}

func TestConfigDocumentShapes(t *testing.T) {
	for text, want := range map[string]string{
		`- {name: driver, version: "1.7", download_url: [https://x/y]}`: `{"config":[{"name":"driver","version":"1.7","download_url":["https://x/y"]}]}`,
		`{"config":[{"name":"x"}],"revision":8}`:                        `{"config":[{"name":"x"}],"revision":8}`,
	} {
		f := newFakeNode(t, someAnswers())
		r := f.muster(t, text, "agent", "default-config", "set", "--file", "-")
		if r.code != exitOK || len(f.asked) != 1 || f.asked[0] != "PUT /v1/config/default "+want {
			t.Errorf("%s: exit code %d, %s, asked %v", text, r.code, r.err, f.asked)
		}
	}
	// What a get prints can be set again.
	f := newFakeNode(t, someAnswers())
	for _, format := range []string{"json", "yaml"} {
		printed := f.muster(t, "", "agent", "default-config", "get", "-o", format).out
		if r := f.muster(t, printed, "agent", "default-config", "set", "--file", "-"); r.code != exitOK {
			t.Errorf("%s: %s", format, r.err)
		}
	}
	r := muster(t, "", "agent", "default-config", "set", "--help")
	if !strings.Contains(r.out, "      - name: driver\n") || !strings.Contains(r.out, `version: "1.7"`+"\n") {
		t.Errorf("the help shows no file:\n%s", r.out)
	}
}
