package openapi

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// maxBases bounds the addresses that the variables of one server make.
const maxBases = 64

// checkBase says what is wrong with a base path, or nil.
func checkBase(base string) error {
	trimmed := strings.TrimSuffix(base, "/")
	if !strings.HasPrefix(base, "/") || trimmed != "" && path.Clean(trimmed) != trimmed || strings.ContainsAny(base, "{}?#%\\;") {
		return fmt.Errorf("base %q: want a path such as /v1", base)
	}
	return nil
}

// serverPaths returns the base paths of a server: one, or one for each value
// that a variable in the path may have.
func serverPaths(s *openapi3.Server) ([]string, error) {
	if s == nil {
		return nil, fmt.Errorf("a server is null")
	}
	addresses := []string{s.URL}
	for _, name := range variables(s.URL) {
		v := s.Variables[name]
		if v == nil {
			return nil, fmt.Errorf("server %s: the variable %s is not defined", s.URL, name)
		}
		values := v.Enum
		if !slices.Contains(values, v.Default) {
			values = append(slices.Clone(values), v.Default)
		}
		if len(addresses)*len(values) > maxBases {
			return nil, fmt.Errorf("server %s: its variables have too many values: give base", s.URL)
		}
		addresses = replaceAll(addresses, "{"+name+"}", values)
	}
	var paths []string
	for _, address := range addresses {
		p, err := addressPath(address)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	return paths, nil
}

func replaceAll(texts []string, old string, values []string) []string {
	out := make([]string, 0, len(texts)*len(values))
	for _, t := range texts {
		for _, v := range values {
			out = append(out, strings.ReplaceAll(t, old, v))
		}
	}
	return out
}

// variables returns the names in braces, each once.
func variables(text string) []string {
	var names []string
	for {
		_, rest, ok := strings.Cut(text, "{")
		if !ok {
			return names
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			return names
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		text = after
	}
}

// addressPath returns the path of a server's address, without a slash at the
// end.
func addressPath(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", fmt.Errorf("server %s: not an address: give base", address)
	}
	if u.Path == "" && (u.Host != "" || address == "") {
		return "", nil
	}
	if err := checkBase(u.Path); err != nil {
		return "", fmt.Errorf("server %s: its path cannot be told: give base, such as /v1", address)
	}
	return strings.TrimSuffix(u.Path, "/"), nil
}
