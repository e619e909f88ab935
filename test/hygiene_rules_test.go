// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The limits of docs/ARCHITECTURE.md and CONTRIBUTING.md.
const (
	maxFileLines        = 600
	maxFuncLines        = 60
	maxFuncLinesRelaxed = 100 // tests, and node's straight-line wiring
	maxFields           = 15
	maxMethods          = 4
)

const spdx = "// SPDX-FileCopyrightText: The Muster Authors\n// SPDX-License-Identifier: Apache-2.0\n"

// elsewhere matches absolute paths of some machine's work tree and references
// to files that are not in the repository.
var elsewhere = regexp.MustCompile(`(?m)(?:^|[\s"'=(:` + "`" + `])(/(?:work|workspace|builds|Users/\w+)/|/tmp/(?:tools|bash_jobs)\b|/tmp/[A-Z]+\.md|shared/(?:design|contracts|hooks)\b)`)

// ruleHeaders: each source begins with its copyright and its licence.
func ruleHeaders(t *sourceTree) []violation {
	var faults []violation
	for _, name := range t.names {
		ext := path.Ext(name)
		if (ext == ".go" || ext == ".proto") && !strings.Contains("/"+name, "/testdata/") && !strings.HasPrefix(t.text[name], spdx) {
			faults = append(faults, violation{
				"header", name + ":1", "does not begin with the two SPDX lines", "copy them from any doc.go",
			})
		}
	}
	return faults
}

// rulePackageComments: doc.go, and only doc.go, says what a package is.
func rulePackageComments(t *sourceTree) []violation {
	var faults []violation
	commented := make(map[string]bool)
	for _, f := range t.goFs {
		if f.ast.Doc == nil || f.generated {
			continue
		}
		commented[f.path] = true
		begin := "Package " + f.ast.Name.Name + " "
		switch {
		case path.Base(f.path) != "doc.go":
			faults = append(faults, violation{
				"doc.go", t.at(f.ast.Package), "a package comment outside doc.go",
				"move it to doc.go, or put an empty line below it",
			})
		case !strings.HasPrefix(f.ast.Doc.Text(), begin):
			faults = append(faults, violation{
				"doc.go", t.at(f.ast.Doc.Pos()), "the package comment does not begin with " + strconv.Quote(begin),
				"say in a sentence what the package holds",
			})
		}
	}
	for _, dir := range t.packageDirs() {
		if !commented[dir+"/doc.go"] {
			faults = append(faults, violation{
				"doc.go", dir, "no doc.go with a package comment",
				"write one that says what the package holds, for someone who looks for the place of the next thing",
			})
		}
	}
	return faults
}

// packageDirs are the directories with Go files, sorted.
func (t *sourceTree) packageDirs() []string {
	var dirs []string
	for _, f := range t.goFs {
		dirs = append(dirs, f.dir)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// ruleGoroutines: somebody owns every goroutine and waits for it.
func ruleGoroutines(t *sourceTree) []violation {
	var faults []violation
	t.inspect(func(f *goFile, n ast.Node) {
		if s, ok := n.(*ast.GoStmt); ok && f.dir != "internal/lifecycle" {
			faults = append(faults, violation{
				"go statement", t.at(s.Pos()), "a bare go statement",
				"use lifecycle.Group, errgroup.Group or sync.WaitGroup.Go, and wait before the owner returns",
			})
		}
	})
	return faults
}

// ruleInit: nothing happens because a package was imported.
func ruleInit(t *sourceTree) []violation {
	var faults []violation
	t.inspect(func(_ *goFile, n ast.Node) {
		if d, ok := n.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
			faults = append(faults, violation{
				"init", t.at(d.Pos()), "func init", "do it in New, or compute a package-level value by a function",
			})
		}
	})
	return faults
}

// ruleSleeps: real sleeps make tests slow or flaky, and programs deaf to ctx.
func ruleSleeps(t *sourceTree) []violation {
	var faults []violation
	t.inspect(func(f *goFile, n ast.Node) {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || !f.isPkg(sel.X, "time") || sel.Sel.Name != "Sleep" {
			return
		}
		if !f.isTest || f.importName("testing/synctest") == "" {
			faults = append(faults, violation{
				"sleep", t.at(sel.Pos()), "time.Sleep outside a synctest bubble",
				"select on a ticker or timer and ctx.Done(); in tests use testing/synctest, or wait for the condition with a deadline",
			})
		}
	})
	return faults
}

// ruleSizes: files, functions, structs and interfaces that fit in a head.
func ruleSizes(t *sourceTree) []violation {
	var faults []violation
	add := func(at, what, mend string) { faults = append(faults, violation{"size", at, what, mend}) }
	for _, f := range t.goFs {
		if !f.generated && f.lines > maxFileLines {
			add(f.path, fmt.Sprintf("%d lines, the limit is %d", f.lines, maxFileLines), "split it by type: a file is named after its main one")
		}
	}
	t.inspect(func(f *goFile, n ast.Node) {
		switch n := n.(type) {
		case *ast.FuncDecl:
			limit := maxFuncLines
			if f.isTest || topDir(f.path) == "node" {
				limit = maxFuncLinesRelaxed
			}
			if lines := t.lines(n); lines > limit {
				add(t.at(n.Pos()), fmt.Sprintf("%s has %d lines, the limit is %d", n.Name.Name, lines, limit), "give its steps names of their own")
			}
		case *ast.StructType:
			if fields := n.Fields.NumFields(); !f.isTest && fields > maxFields && !everyFieldTagged(n) {
				add(t.at(n.Pos()), fmt.Sprintf("a struct of %d fields, the limit is %d (records whose every field has a tag may be wider)", fields, maxFields), "group the fields that change together")
			}
		case *ast.InterfaceType:
			if methods := countMethods(n); !f.isTest && methods > maxMethods {
				add(t.at(n.Pos()), fmt.Sprintf("an interface of %d methods, the limit is %d", methods, maxMethods), "declare only what this user calls; two users need two interfaces")
			}
		}
	})
	return faults
}

func (t *sourceTree) lines(n ast.Node) int {
	return t.fset.Position(n.End()).Line - t.fset.Position(n.Pos()).Line + 1
}

// everyFieldTagged tells records of an outside format (JSON, YAML, a command
// line), which are as wide as that format, from our own types.
func everyFieldTagged(s *ast.StructType) bool {
	return !slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool { return f.Tag == nil })
}

// countMethods counts an embedded interface as one, and type sets as none.
func countMethods(i *ast.InterfaceType) int {
	n := 0
	for _, f := range i.Methods.List {
		switch f.Type.(type) {
		case *ast.FuncType:
			n += len(f.Names)
		case *ast.Ident, *ast.SelectorExpr:
			n++
		}
	}
	return n
}

// ruleEnvironment: what a process was told comes in through cmd and node, so
// that a reader finds every setting in one place.
func ruleEnvironment(t *sourceTree) []violation {
	var faults []violation
	add := func(pos token.Pos, what string) {
		faults = append(faults, violation{"environment", t.at(pos), what, "take it as a field of Options; cmd and node read flags and environment"})
	}
	t.inspect(func(f *goFile, n ast.Node) {
		if top := topDir(f.path); f.isTest || top == "cmd" || top == "node" || within(f.path, ownModules) {
			return
		}
		switch n := n.(type) {
		case *ast.ImportSpec:
			if n.Path.Value == `"flag"` {
				add(n.Pos(), "imports flag")
			}
		case *ast.SelectorExpr:
			names := []string{"Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "Unsetenv", "Args"}
			if f.isPkg(n.X, "os") && slices.Contains(names, n.Sel.Name) {
				add(n.Pos(), "os."+n.Sel.Name)
			}
		}
	})
	return faults
}

// ruleMetrics: a metric's name tells the package that counts it. It looks at
// what is given to the Prometheus client, as far as that is plain text.
func ruleMetrics(t *sourceTree) []violation {
	const client = "github.com/prometheus/client_golang/prometheus"
	var faults []violation
	t.inspect(func(f *goFile, n ast.Node) {
		if f.isTest || f.importName(client) == "" {
			return
		}
		want := modulePath + "_" + f.ast.Name.Name + "_"
		add := func(pos token.Pos, what string) {
			faults = append(faults, violation{"metric name", t.at(pos), what, "name it " + want + "<what>_<unit>"})
		}
		switch n := n.(type) {
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || !f.isPkg(sel.X, client) || sel.Sel.Name != "NewDesc" || len(n.Args) == 0 {
				return
			}
			if name, known := stringOf(n.Args[0]); known && !strings.HasPrefix(name, want) {
				add(n.Pos(), "a metric named "+name)
			}
		case *ast.CompositeLit:
			sel, ok := n.Type.(*ast.SelectorExpr)
			if !ok || !f.isPkg(sel.X, client) || !strings.HasSuffix(sel.Sel.Name, "Opts") {
				return
			}
			if name, known := metricName(n); known && !strings.HasPrefix(name, want) {
				add(n.Pos(), "a metric named "+name)
			}
		}
	})
	return faults
}

// metricName puts a name together from Namespace, Subsystem and Name. It is
// known only where those that stand there are, or begin with, plain strings.
func metricName(lit *ast.CompositeLit) (name string, known bool) {
	parts := make(map[string]string)
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return "", false
		}
		key, ok := kv.Key.(*ast.Ident)
		if !ok || !slices.Contains([]string{"Namespace", "Subsystem", "Name"}, key.Name) {
			continue
		}
		if parts[key.Name], ok = stringOf(kv.Value); !ok {
			return "", false
		}
	}
	all := []string{parts["Namespace"], parts["Subsystem"], parts["Name"]}
	return strings.Join(slices.DeleteFunc(all, func(s string) bool { return s == "" }), "_"), true
}

// stringOf is the value of a string literal, or of the first one of a sum.
func stringOf(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		return stringOf(e.X)
	}
	return "", false
}

// rulePaths: the repository stands alone, wherever it is checked out.
func rulePaths(t *sourceTree) []violation {
	var faults []violation
	for _, name := range t.names {
		for _, m := range elsewhere.FindAllStringSubmatchIndex(t.text[name], -1) {
			line := 1 + strings.Count(t.text[name][:m[2]], "\n")
			faults = append(faults, violation{
				"path", name + ":" + strconv.Itoa(line), "mentions " + t.text[name][m[2]:m[3]],
				"name a file of this repository, or none",
			})
		}
	}
	return faults
}

// ruleLinks: what a document links to in the repository is there.
func ruleLinks(t *sourceTree) []violation {
	var faults []violation
	for _, name := range t.names {
		if path.Ext(name) != ".md" {
			continue
		}
		for _, m := range link.FindAllStringSubmatchIndex(t.text[name], -1) {
			to := t.text[name][m[2]:m[3]]
			if strings.Contains(to, ":") || strings.HasPrefix(to, "#") {
				continue // another place on the web, or in the document
			}
			to, _, _ = strings.Cut(to, "#")
			if !t.has(path.Join(path.Dir(name), to)) {
				line := 1 + strings.Count(t.text[name][:m[2]], "\n")
				faults = append(faults, violation{
					"link", name + ":" + strconv.Itoa(line), "links to " + to + ", which is not there", "write it, or take the link out",
				})
			}
		}
	}
	return faults
}

// link matches the target of a Markdown link or picture.
var link = regexp.MustCompile(`\]\(([^()\s]+)\)`)

// has says whether the tree has such a file or directory.
func (t *sourceTree) has(name string) bool {
	return slices.ContainsFunc(t.names, func(n string) bool { return n == name || strings.HasPrefix(n, name+"/") })
}

// inspect visits every node of every file that a person wrote.
func (t *sourceTree) inspect(visit func(f *goFile, n ast.Node)) {
	for _, f := range t.goFs {
		if f.generated {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if n != nil {
				visit(f, n)
			}
			return true
		})
	}
}

// importName is the name by which a file knows a package, or "" if it does
// not import it.
func (f *goFile) importName(imp string) string {
	for _, spec := range f.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err != nil || p != imp {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(imp)
	}
	return ""
}

// isPkg says whether e names an imported package. A local variable of the
// same name would be mistaken for it: shadowing an import is no good idea.
func (f *goFile) isPkg(e ast.Expr, imp string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == f.importName(imp)
}
