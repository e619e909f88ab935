// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test_test

import (
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"path"
	"slices"
)

// rulePackageVars: package-level variables are constants that Go cannot write
// as such (errors, tables, compiled expressions, embedded files). A variable
// that changes is shared by all tests and all nodes of a process.
//
// The package is type-checked without its imports: enough to know which name
// is which variable, and quick. What comes of that:
//
//   - assigning to, incrementing or deleting from a package variable, of this
//     package or an imported one, is a fault;
//   - so is declaring one of a kind that exists in order to change;
//   - a variable changed through a pointer to it goes unseen.
func rulePackageVars(t *sourceTree) []violation {
	var faults []violation
	for _, files := range t.packages() {
		uses := resolve(t.fset, files)
		for _, f := range files {
			if f.generated {
				continue
			}
			faults = append(faults, changingKinds(t, f)...)
			ast.Inspect(f.ast, func(n ast.Node) bool {
				for _, target := range changed(n) {
					if name := packageVar(uses, target); name != "" {
						faults = append(faults, violation{
							"package variable", t.at(target.Pos()), "changes the package variable " + name,
							"make it a field of what New returns, or an option",
						})
					}
				}
				return true
			})
		}
	}
	return faults
}

// ruleSentinels: one place for the errors that callers compare with.
func ruleSentinels(t *sourceTree) []violation {
	var faults []violation
	for _, f := range t.goFs {
		if f.isTest || f.generated || f.path == "fleet/errors.go" || topDir(f.path) == "internal" {
			continue
		}
		for name, value := range f.packageVars() {
			call, ok := value.(*ast.CallExpr)
			if !ok || !name.IsExported() {
				continue
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if ok && (f.isPkg(sel.X, "errors") && sel.Sel.Name == "New" || f.isPkg(sel.X, "fmt") && sel.Sel.Name == "Errorf") {
				faults = append(faults, violation{
					"sentinel", t.at(name.Pos()), "the sentinel " + name.Name + " outside fleet/errors.go",
					"use or add one in fleet/errors.go, so that the tables to HTTP and gRPC know it",
				})
			}
		}
	}
	return faults
}

// packages groups the files that are compiled together.
func (t *sourceTree) packages() [][]*goFile {
	byName := make(map[string][]*goFile)
	for _, f := range t.goFs {
		key := f.dir + " " + f.ast.Name.Name
		byName[key] = append(byName[key], f)
	}
	var all [][]*goFile
	for _, key := range slices.Sorted(maps.Keys(byName)) {
		all = append(all, byName[key])
	}
	return all
}

// resolve finds what each identifier means, as far as one can tell without
// the imported packages.
func resolve(fset *token.FileSet, files []*goFile) map[*ast.Ident]types.Object {
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	conf := types.Config{
		Importer: emptyImporter{},
		Error:    func(error) {}, // of course: the imports are empty
	}
	var asts []*ast.File
	for _, f := range files {
		asts = append(asts, f.ast)
	}
	_, _ = conf.Check(files[0].dir, fset, asts, info) // says again what Error was told
	return info.Uses
}

// emptyImporter makes every package exist, with nothing in it.
type emptyImporter struct{}

func (emptyImporter) Import(imp string) (*types.Package, error) {
	p := types.NewPackage(imp, path.Base(imp))
	p.MarkComplete()
	return p, nil
}

// changed are the expressions that a statement or call changes in place.
func changed(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.RangeStmt:
		if n.Tok == token.ASSIGN {
			return slices.DeleteFunc([]ast.Expr{n.Key, n.Value}, func(e ast.Expr) bool { return e == nil })
		}
	case *ast.CallExpr:
		if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "delete" || id.Name == "clear") && len(n.Args) > 0 {
			return n.Args[:1]
		}
	}
	return nil
}

// packageVar names the package-level variable at the root of an expression,
// or is "" where a local one or nothing of the kind stands.
func packageVar(uses map[*ast.Ident]types.Object, e ast.Expr) string {
	for {
		switch x := e.(type) {
		case *ast.ParenExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.SelectorExpr:
			if id, ok := x.X.(*ast.Ident); ok && isPkgName(uses[id]) {
				return id.Name + "." + x.Sel.Name
			}
			e = x.X
		case *ast.Ident:
			v, ok := uses[x].(*types.Var)
			if ok && v.Pkg() != nil && v.Parent() == v.Pkg().Scope() {
				return x.Name
			}
			return ""
		default:
			return ""
		}
	}
}

func isPkgName(o types.Object) bool {
	_, ok := o.(*types.PkgName)
	return ok
}

// changingKinds finds package variables of types that are there to change.
func changingKinds(t *sourceTree, f *goFile) []violation {
	var faults []violation
	add := func(name *ast.Ident, kind string) {
		faults = append(faults, violation{
			"package variable", t.at(name.Pos()), "a package variable of type " + kind,
			"make it a field of what New returns",
		})
	}
	for name, value := range f.packageVars() {
		if call, ok := value.(*ast.CallExpr); ok && len(call.Args) > 0 {
			if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "make" {
				if _, ok := call.Args[0].(*ast.ChanType); ok {
					add(name, "chan")
				}
			}
		}
		typ := value
		if lit, ok := typ.(*ast.CompositeLit); ok {
			typ = lit.Type
		}
		if ix, ok := typ.(*ast.IndexExpr); ok { // atomic.Pointer[T]
			typ = ix.X
		}
		sel, ok := typ.(*ast.SelectorExpr)
		if !ok {
			continue
		}
		kinds := []string{"Mutex", "RWMutex", "Map", "WaitGroup", "Cond"}
		if f.isPkg(sel.X, "sync") && slices.Contains(kinds, sel.Sel.Name) || f.isPkg(sel.X, "sync/atomic") {
			add(name, exprName(sel))
		}
	}
	return faults
}

func exprName(sel *ast.SelectorExpr) string {
	if id, ok := sel.X.(*ast.Ident); ok {
		return id.Name + "." + sel.Sel.Name
	}
	return sel.Sel.Name
}

// packageVars yields each package-level variable with its value, or with its
// type where it has no value.
func (f *goFile) packageVars() func(yield func(*ast.Ident, ast.Expr) bool) {
	return func(yield func(*ast.Ident, ast.Expr) bool) {
		for _, d := range f.ast.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, spec := range gen.Specs {
				v, ok := spec.(*ast.ValueSpec)
				if !ok {
					continue
				}
				for i, name := range v.Names {
					value := v.Type
					if i < len(v.Values) {
						value = v.Values[i]
					}
					if !yield(name, value) {
						return
					}
				}
			}
		}
	}
}
