// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mayImport is the import table of docs/ARCHITECTURE.md: which of our own
// top-level directories one of them may import, beside itself. "*" is all.
// The siblings never know each other: node gives each what it needs of the
// others through interfaces that stand beside their user.
var mayImport = map[string][]string{
	"fleet":     {},
	"internal":  {},
	"raftstore": {"fleet", "internal"},
	"gossip":    {"fleet", "internal"},
	"agentrpc":  {"fleet", "internal"},
	"recordlog": {"fleet", "internal"},
	"peerrpc":   {"fleet", "internal"},
	"httpapi":   {"fleet", "internal"},
	"node":      {"*"},
	"cmd":       {"node", "fleet", "internal"},
	"test":      {"*"},
}

// topLevel are the directories that may stand at the root: those of the import
// table, and these.
var topLevel = []string{".ci", ".github", "deploy", "docs"}

// doesIO are the parts of the standard library that fleet, the pure domain,
// must not import; a name also stands for all below it.
var doesIO = []string{"database", "flag", "io/ioutil", "log", "net", "os", "path/filepath", "plugin", "syscall"}

// pureAfterAll are below doesIO, but only compute.
var pureAfterAll = []string{"net/netip", "net/url"}

// thirdParty is one module that Muster may depend on.
type thirdParty struct {
	why       string
	testsOnly bool
}

// ownModules are tools with a go.mod of their own, so that nothing of what they
// need gets into the program.
var ownModules = []string{"internal/tools"}

// allowedModules lists the direct dependencies, each with its one reason. A new one
// needs a reason as good as these.
var allowedModules = map[string]thirdParty{
	"github.com/RoaringBitmap/roaring/v2": {why: "sets of agents: a task for a million of them in a few hundred KB"},
	"github.com/alecthomas/kong":          {why: "the command line, from one declaration"},
	"github.com/hashicorp/go-hclog":       {why: "the type of raft's logger"},
	"github.com/hashicorp/memberlist":     {why: "gossip"},
	"github.com/hashicorp/raft":           {why: "consensus"},
	"github.com/hashicorp/raft-wal":       {why: "the log of raft"},
	"github.com/julienschmidt/httprouter": {why: "HTTP routes"},
	"github.com/klauspost/compress":       {why: "snappy and zstd"},
	"github.com/pierrec/lz4/v4":           {why: "lz4 for Kafka, the one that kafka-go uses"},
	"github.com/prometheus/client_golang": {why: "metrics"},
	"github.com/segmentio/kafka-go":       {why: "writing to Kafka, with record batches of our own"},
	"github.com/swaggest/jsonschema-go":   {why: "the schemas in the OpenAPI document"},
	"github.com/swaggest/openapi-go":      {why: "the OpenAPI document, from the route table"},
	"github.com/twmb/franz-go":            {why: "consumer groups, and reading back in tests"},
	"github.com/twmb/franz-go/pkg/kadm":   {why: "topics of the embedded broker"},
	"github.com/twmb/franz-go/pkg/kfake":  {why: "the embedded Kafka broker"},
	"github.com/twmb/franz-go/pkg/kmsg":   {why: "requests to the embedded broker"},
	"go.etcd.io/bbolt":                    {why: "the replicated state on disk"},
	"go.yaml.in/yaml/v3":                  {why: "the configuration file, and --output yaml"},
	"golang.org/x/crypto":                 {why: "argon2id for passwords"},
	"golang.org/x/sync":                   {why: "errgroup"},
	"golang.org/x/sys":                    {why: "file locks and the open-file limit"},
	"google.golang.org/grpc":              {why: "agents and peers"},
	"google.golang.org/protobuf":          {why: "the wire of agents and peers"},
	"github.com/anishathalye/porcupine":   {why: "histories of registers, checked for linearizability", testsOnly: true},
	"github.com/google/go-cmp":            {why: "differences that a person can read", testsOnly: true},
	"pgregory.net/rapid":                  {why: "laws on random input, shrunk when they fail", testsOnly: true},
}

func TestImportTable(t *testing.T) {
	reportFaults(t, archFaults(repository(t)))
}

// TestImportTableIsCurrent keeps what is gone, and what is only planned, out of
// the tables, and holds docs/ARCHITECTURE.md against the first of them.
func TestImportTableIsCurrent(t *testing.T) {
	tree := repository(t)
	for dir := range mayImport {
		if !tree.has(dir) {
			t.Errorf("mayImport names %s, which is not there: take it out", dir)
		}
	}
	for module := range allowedModules {
		if !strings.Contains(tree.text["go.mod"], module+" v") {
			t.Errorf("allowedModules names %s, which go.mod does not: take it out", module)
		}
	}
	_, section, _ := strings.Cut(tree.text["docs/ARCHITECTURE.md"], "\n## Who may import whom\n")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := make(map[string][]string)
	for _, row := range importRow.FindAllStringSubmatch(section, -1) {
		documented[row[1]] = []string{}
		for _, name := range quoted.FindAllStringSubmatch(row[2], -1) {
			documented[row[1]] = append(documented[row[1]], name[1])
		}
	}
	if diff := cmp.Diff(mayImport, documented); diff != "" {
		t.Errorf("the import table of docs/ARCHITECTURE.md (-here +there):\n%s", diff)
	}
}

var (
	importRow = regexp.MustCompile("(?m)^\\| `([a-z]+)` \\| (.*) \\|$")
	quoted    = regexp.MustCompile("`([a-z*]+)`")
)

// archFaults checks a tree against the tables above.
func archFaults(t *sourceTree) []violation {
	return slices.Concat(layoutFaults(t), importFaults(t), goModFaults(t))
}

// layoutFaults looks at what stands at the root.
func layoutFaults(t *sourceTree) []violation {
	var faults []violation
	seen := make(map[string]bool)
	for _, name := range t.names {
		dir := topDir(name)
		_, known := mayImport[dir]
		switch {
		case seen[dir]:
		case dir == "." && path.Ext(name) == ".go":
			faults = append(faults, violation{
				"layout", name, "a Go file at the root",
				"move it to the package that its words belong to; helpers without a domain go under internal/",
			})
		case dir == "." || known || slices.Contains(topLevel, dir):
		default:
			seen[dir] = true
			faults = append(faults, violation{
				"layout", dir, "a new directory at the root",
				"put it under internal/, or change the layout in docs/ARCHITECTURE.md and this test, on purpose",
			})
		}
	}
	return faults
}

// importFaults looks at each import of each Go file, tests included.
func importFaults(t *sourceTree) []violation {
	var faults []violation
	for _, f := range t.goFs {
		for _, spec := range f.ast.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				continue // the parser has seen to it
			}
			if what, mend := importFault(f, imp); what != "" {
				faults = append(faults, violation{"imports", t.at(spec.Pos()), what, mend})
			}
		}
	}
	return faults
}

// importFault says what is wrong with one import, or nothing.
func importFault(f *goFile, imp string) (what, mend string) {
	top := topDir(f.path)
	if ours, is := strings.CutPrefix(imp, modulePath+"/"); is {
		to, _, _ := strings.Cut(ours, "/")
		if to == top || slices.Contains(mayImport[top], to) || slices.Contains(mayImport[top], "*") {
			return "", ""
		}
		return top + " imports " + imp,
			"declare the interface that you need beside its user (1-4 methods) and let node wire it"
	}
	if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
		if top == "fleet" && !f.isTest && within(imp, doesIO) && !within(imp, pureAfterAll) {
			return "fleet imports " + imp, "fleet does no I/O: take what was read as an argument"
		}
		return "", ""
	}
	dep, known := moduleOf(imp)
	switch {
	case within(f.path, ownModules):
		return "", "" // its go.mod says what it needs
	case !known:
		return imp + " is not an allowed dependency",
			"do without it, or add it to the table in test/arch_test.go with a reason as good as those there"
	case top == "fleet" && !f.isTest:
		return "fleet imports " + imp, "fleet knows the standard library only"
	case dep.testsOnly && !f.isTest && top != "internal":
		return imp + " is for tests", "move what needs it to a _test.go file"
	}
	return "", ""
}

// goModFaults compares the direct requirements of go.mod with the table.
func goModFaults(t *sourceTree) []violation {
	var faults []violation
	block := false
	for i, line := range strings.Split(t.text["go.mod"], "\n") {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 1 && fields[0] == "require" && fields[1] == "(":
			block = true
			continue
		case len(fields) > 0 && fields[0] == ")":
			block = false
		case len(fields) > 2 && fields[0] == "require":
			fields = fields[1:]
		case !block:
			continue
		}
		if len(fields) < 2 || strings.Contains(line, "// indirect") {
			continue
		}
		if _, ok := allowedModules[fields[0]]; !ok {
			faults = append(faults, violation{
				"go.mod", "go.mod:" + strconv.Itoa(i+1), "a new direct dependency: " + fields[0],
				"do without it, or add it to the table in test/arch_test.go with a reason as good as those there",
			})
		}
	}
	return faults
}

// moduleOf finds the allowed module that an import path belongs to.
func moduleOf(imp string) (thirdParty, bool) {
	for p := imp; p != "."; p = path.Dir(p) {
		if dep, ok := allowedModules[p]; ok {
			return dep, true
		}
	}
	return thirdParty{}, false
}

// within says whether p is one of the given paths or lies below one.
func within(p string, paths []string) bool {
	return slices.ContainsFunc(paths, func(q string) bool { return p == q || strings.HasPrefix(p, q+"/") })
}

// TestImportTableBites makes up one tree for each way of breaking the tables,
// and some that look alike but break nothing.
func TestImportTableBites(t *testing.T) {
	goFile := func(pkg string, imports ...string) string {
		text := "package " + pkg + "\n"
		for _, imp := range imports {
			text += "import _ " + strconv.Quote(imp) + "\n"
		}
		return text
	}
	tests := map[string]struct {
		files map[string]string
		want  []string // file:line and rule
	}{
		"what the table allows": {files: map[string]string{
			"go.mod":               "module muster\n\nrequire github.com/hashicorp/raft v1.8.0\nrequire (\n\tpgregory.net/rapid v1.3.0\n\tgithub.com/x/y v1.0.0 // indirect\n)\n",
			"README.md":            "Muster\n",
			"docs/a.md":            "a\n",
			"fleet/a.go":           goFile("fleet", "crypto/sha256", "encoding/json", "net/netip", "net/url", "path"),
			"fleet/a_test.go":      goFile("fleet_test", "os", "pgregory.net/rapid", "muster/fleet"),
			"gossip/a.go":          goFile("gossip", "muster/fleet", "muster/internal/lifecycle", "github.com/hashicorp/memberlist"),
			"peerrpc/peerpb/a.go":  goFile("peerpb", "google.golang.org/protobuf/proto"),
			"peerrpc/a.go":         goFile("peerrpc", "muster/peerrpc/peerpb"),
			"internal/sim/a.go":    goFile("sim", "muster/internal/agentpb", "pgregory.net/rapid"),
			"internal/tools/a.go":  goFile("main", "github.com/prometheus/prometheus/promql"),
			"node/a.go":            goFile("node", "muster/gossip", "muster/raftstore", "muster/internal/lifecycle"),
			"cmd/muster/main.go":   goFile("main", "muster/node", "muster/fleet", "muster/internal/apiclient"),
			"test/a_test.go":       goFile("test_test", "muster/gossip", "muster/node", "github.com/google/go-cmp/cmp"),
			"raftstore/a_test.go":  goFile("raftstore_test", "pgregory.net/rapid"),
			"gossip/testdata/a.go": goFile("nothing", "muster/raftstore"),
		}},
		"siblings": {
			files: map[string]string{"raftstore/a.go": goFile("raftstore", "muster/fleet", "muster/gossip")},
			want:  []string{"raftstore/a.go:3 imports"},
		},
		"siblings in tests": {
			files: map[string]string{"raftstore/a_test.go": goFile("raftstore_test", "muster/gossip/gossippb")},
			want:  []string{"raftstore/a_test.go:2 imports"},
		},
		"a sibling knows node": {
			files: map[string]string{"httpapi/a.go": goFile("httpapi", "muster/node")},
			want:  []string{"httpapi/a.go:2 imports"},
		},
		"internal knows the domain": {
			files: map[string]string{"internal/sim/a.go": goFile("sim", "muster/fleet")},
			want:  []string{"internal/sim/a.go:2 imports"},
		},
		"the domain knows a helper": {
			files: map[string]string{"fleet/a.go": goFile("fleet", "muster/internal/lifecycle")},
			want:  []string{"fleet/a.go:2 imports"},
		},
		"the domain does I/O": {
			files: map[string]string{"fleet/a.go": goFile("fleet", "net/http", "os/exec", "os", "log/slog", "database/sql")},
			want: []string{
				"fleet/a.go:2 imports", "fleet/a.go:3 imports", "fleet/a.go:4 imports",
				"fleet/a.go:5 imports", "fleet/a.go:6 imports",
			},
		},
		"the domain knows a third party": {
			files: map[string]string{"fleet/a.go": goFile("fleet", "github.com/klauspost/compress/s2")},
			want:  []string{"fleet/a.go:2 imports"},
		},
		"the command knows a part": {
			files: map[string]string{"cmd/muster/main.go": goFile("main", "muster/node", "muster/raftstore")},
			want:  []string{"cmd/muster/main.go:3 imports"},
		},
		"an unknown dependency": {
			files: map[string]string{"gossip/a.go": goFile("gossip", "github.com/pkg/errors", "github.com/hashicorp/raft-boltdb/v2")},
			want:  []string{"gossip/a.go:2 imports", "gossip/a.go:3 imports"},
		},
		"a test library in the program": {
			files: map[string]string{"gossip/a.go": goFile("gossip", "github.com/google/go-cmp/cmp")},
			want:  []string{"gossip/a.go:2 imports"},
		},
		"go.mod": {
			files: map[string]string{"go.mod": "module muster\n\nrequire github.com/pkg/errors v0.9.1\n\nrequire (\n\tgithub.com/sirupsen/logrus v1.9.3\n)\n"},
			want:  []string{"go.mod:3 go.mod", "go.mod:6 go.mod"},
		},
		"the root": {
			files: map[string]string{"utils/a.go": goFile("utils"), "utils/b.go": goFile("utils"), "main.go": goFile("main")},
			want:  []string{"main.go layout", "utils layout"},
		},
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, f := range archFaults(madeUp(t, tests[name].files)) {
				got = append(got, f.at+" "+f.rule)
			}
			if diff := cmp.Diff(tests[name].want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}
