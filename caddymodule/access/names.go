package access

import (
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Bounds of what people may write.
const (
	MaxName        = 200  // bytes of a key's or tenant's name
	MaxDescription = 1000 // bytes of a key's description
	MaxAgent       = 200  // bytes of a User-Agent that are kept
	MaxAddresses   = 64   // networks a key may be bound to
	MaxPermissions = 64   // permissions of a key, a plan or a tenant
	MaxTenantID    = 64   // bytes of a tenant id
	MaxMetadata    = 16   // entries of a metadata map
	MaxMetaKey     = 40   // bytes of a metadata key
	MaxMetaVal     = 500  // bytes of a metadata value
)

// CheckTenantID says what is wrong with a tenant id, or nil. Tenant ids go
// into headers and paths: letters, digits, '_', '-' and '.', starting with a
// letter or digit.
func CheckTenantID(id string) error {
	if id == "" || len(id) > MaxTenantID || !alphanumeric(id[0]) {
		return fmt.Errorf("tenant id %q: want 1 to %d letters, digits, '_', '-' or '.', starting with a letter or digit", clip(id), MaxTenantID)
	}
	for i := range len(id) {
		if c := id[i]; !alphanumeric(c) && c != '_' && c != '-' && c != '.' {
			return fmt.Errorf("tenant id %q: %q is not a letter, digit, '_', '-' or '.'", id, c)
		}
	}
	return nil
}

// CheckName says what is wrong with a name for people, or nil: it must be
// UTF-8 of at most MaxName bytes without control characters.
func CheckName(s string) error { return checkText("name", s, MaxName) }

// CheckDescription says what is wrong with a description, or nil.
func CheckDescription(s string) error { return checkText("description", s, MaxDescription) }

// CheckMetadata says what is wrong with a metadata map, or nil.
func CheckMetadata(m map[string]string) error {
	if len(m) > MaxMetadata {
		return fmt.Errorf("metadata holds at most %d entries, not %d", MaxMetadata, len(m))
	}
	for k, v := range m {
		if k == "" {
			return errors.New("metadata keys must not be empty")
		}
		if err := checkText("metadata key", k, MaxMetaKey); err != nil {
			return err
		}
		if err := checkText("metadata value", v, MaxMetaVal); err != nil {
			return err
		}
	}
	return nil
}

// CheckPermission says what is wrong with a permission name, or nil: 1 to 64
// visible ASCII characters but quotes, comma and backslash; '*' may only be the
// last, as a wildcard.
func CheckPermission(s string) error {
	if s == "" || len(s) > 64 {
		return fmt.Errorf("permission %q: want 1 to 64 characters", clip(s))
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == ',' || c == '\\' {
			return fmt.Errorf("permission %q: %q may not be part of a permission", s, c)
		}
		if s[i] == '*' && i < len(s)-1 {
			return fmt.Errorf("permission %q: a wildcard may only be the last character, as in rules:*", s)
		}
	}
	return nil
}

func checkText(what, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%s is %d bytes long, at most %d are allowed", what, len(s), limit)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s is not valid UTF-8", what)
	}
	for _, r := range s {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return fmt.Errorf("%s holds the control character %U", what, r)
		}
	}
	return nil
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func clip(s string) string {
	if len(s) > MaxTenantID {
		return s[:MaxTenantID] + "…"
	}
	return s
}
