package openapi

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// extension is the member of an operation that names its permission.
const extension = "x-permission"

// needs returns the permissions one of which an operation needs: those of
// x-permission, else its operation id, else the scopes of its security.
func (l *builder) needs(o Operation, op *openapi3.Operation) ([]string, error) {
	if v, ok := op.Extensions[extension]; ok {
		list, err := extensionNames(v)
		if err != nil {
			return nil, err
		}
		return list, checkNames(list)
	}
	if id := op.OperationID; id != "" {
		if other, ok := l.ids[id]; ok {
			return nil, fmt.Errorf("operationId %s is that of %s as well: give each its own, or x-permission", id, other)
		}
		l.ids[id] = o
		return []string{id}, checkNames([]string{id})
	}
	security := l.doc.Security
	if op.Security != nil {
		security = *op.Security
	}
	if op.Security != nil && len(security) == 0 {
		return nil, nil // the description says that nothing is needed
	}
	list, err := scopes(security)
	if err != nil {
		return nil, err
	}
	return list, checkNames(list)
}

// extensionNames reads the value of x-permission. An empty list is any key.
func extensionNames(v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case []any:
		var list []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("x-permission: want names of permissions")
			}
			if !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
		return list, nil
	}
	return nil, errors.New("x-permission: want the name of a permission or a list of names")
}

// scopes returns the scopes one of which is enough. A Permit asks for one of
// several permissions, so that two scopes at once cannot be told.
func scopes(security openapi3.SecurityRequirements) ([]string, error) {
	var list []string
	for _, alternative := range security {
		var all []string
		for _, s := range alternative {
			all = append(all, s...)
		}
		switch {
		case len(all) == 0:
			return nil, errNoName
		case len(all) > 1:
			return nil, fmt.Errorf("it needs the scopes %s at once: add x-permission with the one permission that stands for them", strings.Join(slices.Sorted(slices.Values(all)), ", "))
		case !slices.Contains(list, all[0]):
			list = append(list, all[0])
		}
	}
	if len(list) == 0 {
		return nil, errNoName
	}
	return list, nil
}

var errNoName = errors.New("nothing says which permission it needs: add an operationId or x-permission")

func checkNames(list []string) error {
	for _, name := range list {
		if err := access.CheckPermission(name); err != nil {
			return fmt.Errorf("%w: add x-permission", err)
		}
		if strings.Contains(name, "*") {
			return fmt.Errorf("permission %s: an operation needs one permission, not a wildcard", name)
		}
	}
	return nil
}
