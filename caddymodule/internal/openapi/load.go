package openapi

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// maxOperations bounds a description.
const maxOperations = 10_000

// Document is the operations of one description. It is immutable and safe for
// concurrent use.
type Document struct {
	root       node
	operations []Operation
}

// Operation is one method of one path template.
type Operation struct {
	Method string
	Path   string   // the template, with its base path
	Needs  []string // a key needs one of these; none is any key
}

// String names the operation in messages.
func (o Operation) String() string { return o.Method + " " + o.Path }

// Load reads a description in JSON or YAML. A base, such as /v1, is where the
// paths begin; if it is empty the servers of the description say so. Errors
// name the operation at fault.
func Load(file []byte, base string) (*Document, error) {
	if err := checkDoubles(file); err != nil {
		return nil, err
	}
	loader := openapi3.NewLoader()
	loader.IsExternalRefsAllowed = false
	loader.ReadFromURIFunc = func(_ *openapi3.Loader, uri *url.URL) ([]byte, error) {
		return nil, fmt.Errorf("it refers to %s: put everything into one file first", uri)
	}
	doc, err := loader.LoadFromData(file)
	if err != nil {
		return nil, fmt.Errorf("not an OpenAPI description: %w", err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.") {
		return nil, fmt.Errorf("openapi is %q: want a description of OpenAPI 3", doc.OpenAPI)
	}
	l := builder{doc: doc, base: base, out: new(Document), ids: make(map[string]Operation)}
	if err := l.build(); err != nil {
		return nil, err
	}
	return l.out, nil
}

// builder turns a description into a Document.
type builder struct {
	doc  *openapi3.T
	base string
	out  *Document
	ids  map[string]Operation // by operation id
}

func (l *builder) build() error {
	if l.base != "" {
		if err := checkBase(l.base); err != nil {
			return err
		}
	}
	if l.doc.Paths.Len() == 0 {
		return errors.New("the description has no paths")
	}
	for _, path := range slices.Sorted(maps.Keys(l.doc.Paths.Map())) {
		if err := l.path(path, l.doc.Paths.Value(path)); err != nil {
			return err
		}
	}
	if len(l.out.operations) == 0 {
		return errors.New("the description has no operations")
	}
	slices.SortFunc(l.out.operations, func(a, b Operation) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Method, b.Method))
	})
	l.out.root.sort()
	return nil
}

func (l *builder) path(path string, item *openapi3.PathItem) error {
	if item == nil {
		return nil
	}
	operations := item.Operations()
	for _, method := range slices.Sorted(maps.Keys(operations)) {
		op := operations[method]
		o := Operation{Method: method, Path: path}
		var err error
		if o.Needs, err = l.needs(o, op); err != nil {
			return fmt.Errorf("%s: %w", o, err)
		}
		bases, err := l.bases(op, item)
		if err != nil {
			return fmt.Errorf("%s: %w", o, err)
		}
		for _, base := range bases {
			o.Path = base + path
			if err := l.add(o); err != nil {
				return fmt.Errorf("%s: %w", o, err)
			}
		}
	}
	return nil
}

func (l *builder) add(o Operation) error {
	if len(l.out.operations) == maxOperations {
		return fmt.Errorf("the description has more than %d operations", maxOperations)
	}
	if err := l.out.root.add(o); err != nil {
		return err
	}
	l.out.operations = append(l.out.operations, o)
	return nil
}

// bases returns the base paths under which an operation is.
func (l *builder) bases(op *openapi3.Operation, item *openapi3.PathItem) ([]string, error) {
	if l.base != "" {
		return []string{strings.TrimSuffix(l.base, "/")}, nil
	}
	servers := l.doc.Servers
	if len(item.Servers) > 0 {
		servers = item.Servers
	}
	if op.Servers != nil && len(*op.Servers) > 0 {
		servers = *op.Servers
	}
	if len(servers) == 0 {
		return []string{""}, nil
	}
	var bases []string
	for _, s := range servers {
		paths, err := serverPaths(s)
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			if !slices.Contains(bases, p) {
				bases = append(bases, p)
			}
		}
	}
	return bases, nil
}

// Operations returns the operations in order of their paths. The list must not
// be changed.
func (d *Document) Operations() []Operation { return d.operations }

// methods that a description can have, so that no other is ever matched.
var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete, http.MethodOptions, http.MethodTrace, http.MethodConnect,
}
