package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	modulePath = "github.com/keytoll/keytoll"
	modulePkgs = modulePath + "/caddymodule"
)

// ours returns the path of one of our packages.
func ours(name string) string { return modulePkgs + "/" + name }

// tinkGo is what the keysets of package seal reach.
var tinkGo = []string{"github.com/tink-crypto/tink-go", "google.golang.org/protobuf", "golang.org/x/crypto", "golang.org/x/sys"}

// importRules says which packages of this module a package may import, and
// which packages of other modules it may reach, directly or not. A package that
// is not named is bound by importers alone.
var importRules = map[string]struct{ imports, reaches []string }{
	ours("access"):             {},
	ours("token"):              {},
	ours("store"):              {imports: []string{"access"}},
	ours("internal/limit"):     {imports: []string{"access"}},
	ours("internal/index"):     {imports: []string{"access", "store", "token", "internal/limit", "internal/near"}},
	ours("internal/near"):      {},
	ours("internal/gate"):      {imports: []string{"access", "token", "internal/index", "internal/limit"}},
	ours("internal/registrar"): {imports: []string{"access", "token", "store", "internal/audit", "internal/seal", "internal/provider"}, reaches: tinkGo},
	ours("internal/mgmt"):      {imports: []string{"access", "token", "store", "internal/registrar", "internal/dialect", "internal/credit", "internal/usage"}, reaches: tinkGo},
	ours("internal/period"):    {},
	ours("internal/mapped"):    {reaches: []string{"golang.org/x/sys"}},
	ours("internal/counter"):   {imports: []string{"internal/mapped"}, reaches: []string{"golang.org/x/sys"}},
	ours("internal/journal"):   {imports: []string{"internal/mapped"}, reaches: []string{"golang.org/x/sys"}},
	ours("internal/credit"):    {imports: []string{"access", "internal/period", "internal/counter", "internal/near"}, reaches: []string{"golang.org/x/sys"}},
	ours("internal/usage"):     {imports: []string{"access", "internal/journal"}, reaches: []string{"golang.org/x/sys"}},
	ours("internal/audit"):     {imports: []string{"access"}},
	ours("internal/seal"):      {reaches: tinkGo},
	ours("internal/provider"):  {imports: []string{"access"}},
	ours("internal/dialect"):   {imports: []string{"access"}},
	ours("internal/leaks"):     {imports: []string{"token"}},
	ours("internal/learn"): {
		imports: []string{"access", "token"},
		reaches: []string{"golang.org/x/sync", "golang.org/x/time"},
	},
	ours("internal/foreign"):     {reaches: []string{"golang.org/x/crypto", "golang.org/x/sys"}},
	ours("internal/importer"):    {imports: []string{"access", "token", "internal/registrar", "internal/foreign", "store", "internal/audit", "internal/seal"}, reaches: tinkGo},
	ours("internal/openapi"):     {imports: []string{"access"}, reaches: []string{"github.com/getkin/kin-openapi", "github.com/go-openapi", "github.com/oasdiff", "github.com/santhosh-tekuri/jsonschema", "golang.org/x/text"}},
	ours("internal/conformance"): {reaches: []string{"go.yaml.in/yaml"}},
	ours("store/boltstore"): {
		imports: []string{"access", "token", "store"},
		reaches: []string{"go.etcd.io/bbolt", "golang.org/x/sys"},
	},
}

// importers is who may import the packages that all others keep away from.
var importers = map[string][]string{
	"github.com/caddyserver/": {modulePkgs, ours("internal/harness"), modulePath + "/cmd/"},
	"go.etcd.io/bbolt":        {ours("store/boltstore")},
	ours("store/boltstore"):   {modulePkgs, modulePath + "/cmd/"},

	"github.com/tink-crypto/": {ours("internal/seal")},
}

type listed struct {
	ImportPath    string
	Standard      bool
	Imports, Deps []string
}

// listPackages returns the packages of this module and, by path, whether each
// package that they reach is of the standard library.
func listPackages(t *testing.T) (packages []listed, standard map[string]bool) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	standard = map[string]bool{"C": true}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages, standard
		} else if err != nil {
			t.Fatal(err)
		}
		standard[p.ImportPath] = p.Standard
		if p.ImportPath == modulePath || strings.HasPrefix(p.ImportPath, modulePath+"/") {
			packages = append(packages, p)
		}
	}
}

func TestImports(t *testing.T) {
	packages, standard := listPackages(t)
	if len(packages) < 5 {
		t.Fatalf("go list names %d packages of the module", len(packages))
	}
	for _, p := range packages {
		for _, imp := range p.Imports {
			for target, allowed := range importers {
				if under(imp, target) && !underAny(p.ImportPath, allowed) {
					t.Errorf("%s imports %s, which only %v may", p.ImportPath, imp, allowed)
				}
			}
		}
		rule, ok := importRules[p.ImportPath]
		if !ok {
			continue
		}
		for _, imp := range p.Imports {
			if name, mine := strings.CutPrefix(imp, modulePkgs+"/"); mine && !slices.Contains(rule.imports, name) {
				t.Errorf("%s imports %s, and may import %v", p.ImportPath, imp, rule.imports)
			}
		}
		for _, dep := range p.Deps {
			if !standard[dep] && !strings.HasPrefix(dep, modulePath+"/") && !underAny(dep, rule.reaches) {
				t.Errorf("%s reaches %s, and may reach the standard library and %v", p.ImportPath, dep, rule.reaches)
			}
		}
	}
}

// under reports whether a package is prefix or below it. A prefix that ends
// with '/' has no package of its own. modulePkgs stands for itself alone.
func under(path, prefix string) bool {
	return path == prefix || prefix != modulePkgs && strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/")
}

func underAny(path string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return under(path, p) })
}

// The bounds of what a reader has to hold in mind at once, in lines.
const (
	maxFile     = 400
	maxTestFile = 500
	maxFunc     = 80
)

func TestFilesAndFunctionsAreShort(t *testing.T) {
	for path, src := range repositoryFiles(t, ".go") {
		limit := maxFile
		if strings.HasSuffix(path, "_test.go") {
			limit = maxTestFile
		}
		if n := bytes.Count(src, []byte("\n")); n > limit {
			t.Errorf("%s has %d lines, at most %d are allowed", path, n, limit)
		}
		fset, file := parse(t, path, src)
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				if n := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1; n > maxFunc {
					t.Errorf("%s: %s has %d lines, at most %d are allowed", fset.Position(f.Pos()), f.Name.Name, n, maxFunc)
				}
			}
		}
	}
}

func TestExportedNamesAreCommented(t *testing.T) {
	commented := make(map[string]bool) // directories with a package comment
	for path, src := range repositoryFiles(t, ".go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		fset, file := parse(t, path, src)
		dir := filepath.Dir(path)
		commented[dir] = commented[dir] || file.Doc != nil
		for _, d := range file.Decls {
			for _, name := range uncommented(d) {
				t.Errorf("%s: %s has no comment", fset.Position(name.Pos()), name.Name)
			}
		}
	}
	for dir, ok := range commented {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

// uncommented returns the exported names of a declaration that no comment
// belongs to. A comment on a group of constants or variables is for all.
func uncommented(d ast.Decl) (names []*ast.Ident) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
			names = append(names, d.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && s.Doc == nil && d.Doc == nil {
					names = append(names, s.Name)
				}
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
						names = append(names, n)
					}
				}
			}
		}
	}
	return names
}

// exportedReceiver reports whether f is no method, or one that others can call
// by the name of its type.
func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	t := f.Recv.List[0].Type
	for {
		switch u := t.(type) {
		case *ast.StarExpr:
			t = u.X
		case *ast.IndexExpr:
			t = u.X
		case *ast.IndexListExpr:
			t = u.X
		case *ast.Ident:
			return u.IsExported()
		default:
			return true
		}
	}
}

func TestCodeStandsInItsFolders(t *testing.T) {
	for path := range repositoryFiles(t, ".go") {
		if !strings.HasPrefix(path, "../caddymodule/") && !strings.HasPrefix(path, "../cmd/") {
			t.Errorf("%s is neither below caddymodule nor below cmd", path)
		}
	}
}

// unwanted is what no file of the repository may hold. The words are put
// together here so that this file does not hold them either.
var unwanted = regexp.MustCompile(strings.Join([]string{
	`\bTO` + `DO\b`, `\bFIX` + `ME\b`, `\bXX` + `X\b`,
	`(^|[\s"'(=:` + "`" + `])/(ro` + `ot|ho` + `me/[a-z]+|wo` + `rk|Us` + `ers)/`,
}, "|"))

func TestNoLeftovers(t *testing.T) {
	for path, src := range repositoryFiles(t, "") {
		if bytes.IndexByte(src, 0) >= 0 || strings.HasSuffix(path, "go.sum") {
			continue
		}
		for i, line := range bytes.Split(src, []byte("\n")) {
			if m := unwanted.Find(line); m != nil {
				t.Errorf("%s:%d holds %q", path, i+1, m)
			}
		}
	}
}

// repositoryFiles returns the files of the repository that end with suffix,
// but for what is ignored: binaries, test output and the like.
func repositoryFiles(t *testing.T, suffix string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return filepath.SkipDir
		case !d.Type().IsRegular() || !strings.HasSuffix(path, suffix):
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() > 1<<20 {
			return err
		}
		src, err := os.ReadFile(path)
		files[filepath.ToSlash(path)] = src
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 5 {
		t.Fatalf("only %d files end with %q", len(files), suffix)
	}
	return files
}

func parse(t *testing.T, path string, src []byte) (*token.FileSet, *ast.File) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return fset, file
}
