// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"muster/node"
)

// serverFlags are the flags of `muster server` but for --config, and their
// defaults; "" where there is none.
func serverFlags(t *testing.T) map[string]string {
	t.Helper()
	parser, err := kong.New(&struct {
		Node node.Config `embed:""`
	}{})
	if err != nil {
		t.Fatal(err)
	}
	flags := make(map[string]string)
	for _, f := range parser.Model.Flags {
		flags[f.Name] = f.Default
	}
	delete(flags, "help")
	return flags
}

// offKey matches a key of the sample that is commented out.
var offKey = regexp.MustCompile(`(?m)^#([a-z])`)

// TestSampleSettings holds deploy/muster.yaml against the flags: as it is it
// sets nothing, and with every key switched on it gives each flag its default.
func TestSampleSettings(t *testing.T) {
	text, err := os.ReadFile("../deploy/muster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	settings := make(map[string]yaml.Node)
	if err := yaml.Unmarshal(text, &settings); err != nil || len(settings) > 0 {
		t.Errorf("the sample sets %v (%v), want nothing", slices.Collect(maps.Keys(settings)), err)
	}
	if err := yaml.Unmarshal(offKey.ReplaceAll(text, []byte("$1")), &settings); err != nil {
		t.Fatal(err)
	}
	flags := serverFlags(t)
	for _, once := range []string{"recover", "yes"} { // the command line's alone
		delete(flags, once)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(flags)), slices.Sorted(maps.Keys(settings))); diff != "" {
		t.Fatalf("keys (-flags of muster server +sample):\n%s", diff)
	}
	for name, value := range settings {
		got := value.Value
		if value.Kind == yaml.SequenceNode && len(value.Content) == 1 {
			got = value.Content[0].Value
		}
		if want := flags[name]; want != "" && got != want {
			t.Errorf("%s: %q, the flag's default is %q", name, got, want)
		}
	}
}

// TestFlagsAreDocumented: docs/operations.md has a row for each flag, with its default.
func TestFlagsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range serverFlags(t) {
		row := fmt.Sprintf("\n| `--%s` | ", name)
		if value != "" {
			row += fmt.Sprintf("`%s` | ", value)
		}
		if !strings.Contains(string(text), row) {
			t.Errorf("docs/operations.md has no row that begins %q", row[1:])
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		if _, known := serverFlags(t)[row[1]]; !known && row[1] != "config" {
			t.Errorf("docs/operations.md has a row for --%s, which is no flag of muster server", row[1])
		}
	}
}
