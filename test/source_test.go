// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const modulePath = "muster"

// sourceTree is the repository, or a small one made up by a test, as text and,
// where it is Go, parsed. Paths are relative to its root, with slashes.
type sourceTree struct {
	fset  *token.FileSet
	text  map[string]string // every file
	goFs  []*goFile         // every Go file, sorted by path
	names []string          // the keys of text, sorted
}

// goFile is one parsed file. Generated code is read, so that its imports are
// checked, but keeps none of the rules of style.
type goFile struct {
	path      string
	dir       string
	ast       *ast.File
	generated bool
	isTest    bool // a _test.go file, or anything below test/
	lines     int
}

// violation is one broken rule. It prints the way compilers do, so that editors
// can jump to it, and ends in what to do about it.
type violation struct {
	rule string
	at   string // file:line, or a file or directory
	what string
	mend string
}

func (v violation) String() string {
	return fmt.Sprintf("%s: %s [%s]\n\tmend: %s", v.at, v.what, v.rule, v.mend)
}

func (t *sourceTree) at(pos token.Pos) string {
	p := t.fset.Position(pos)
	return p.Filename + ":" + strconv.Itoa(p.Line)
}

// readTree reads the named files. Names that are gone from the disk, but not
// yet from git, are passed over.
func readTree(root fs.FS, names []string) (*sourceTree, error) {
	t := &sourceTree{fset: token.NewFileSet(), text: make(map[string]string)}
	for _, name := range names {
		b, err := fs.ReadFile(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		t.names = append(t.names, name)
		t.text[name] = string(b)
	}
	slices.Sort(t.names)
	for _, name := range t.names {
		if path.Ext(name) != ".go" || strings.Contains("/"+name, "/testdata/") {
			continue
		}
		f, err := parser.ParseFile(t.fset, name, t.text[name], parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		t.goFs = append(t.goFs, &goFile{
			path:      name,
			dir:       path.Dir(name),
			ast:       f,
			generated: ast.IsGenerated(f),
			isTest:    strings.HasSuffix(name, "_test.go") || topDir(name) == "test",
			lines:     strings.Count(t.text[name], "\n"),
		})
	}
	return t, nil
}

// repository reads this very repository: what git tracks or would add, so that
// build output and data directories do not count.
func repository(t *testing.T) *sourceTree {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	names, err := listFiles(t, root)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := readTree(os.DirFS(root), names)
	if err != nil {
		t.Fatal(err)
	}
	// A rule that looked at nothing has not been kept.
	if len(tree.goFs) < 5 || tree.text["go.mod"] == "" {
		t.Fatalf("read only %d Go files below %s: the rules were not checked", len(tree.goFs), root)
	}
	return tree
}

// listFiles asks git, and where there is none (a source archive) walks.
func listFiles(t *testing.T, root string) ([]string, error) {
	git := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	git.Dir = root
	if out, err := git.Output(); err == nil {
		return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 }), nil
	}
	var names []string
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "bin", "dist", "muster-data", "node_modules"}, d.Name()):
			return fs.SkipDir
		case d.Type().IsRegular():
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// madeUp parses a tree given as path -> text.
func madeUp(t *testing.T, files map[string]string) *sourceTree {
	t.Helper()
	m := make(fstest.MapFS, len(files))
	var names []string
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
		names = append(names, name)
	}
	tree, err := readTree(m, names)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// topDir is the first element of a path, or "." for a file at the root.
func topDir(name string) string {
	first, _, below := strings.Cut(name, "/")
	if !below {
		return "."
	}
	return first
}

func reportFaults(t *testing.T, faults []violation) {
	t.Helper()
	for _, f := range faults {
		t.Errorf("%s", f)
	}
}
