package caddymodule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Permission is what a key may be allowed to do, by name.
type Permission struct {
	// For people. Default: none.
	Description string `json:"description,omitempty"`
	// Names of configured permissions that this one holds as well. Default: none.
	Implies []string `json:"implies,omitempty"`
}

// KeyPolicy is how long keys live. A duration may be given in days, such as
// 90d; the longest is ten years.
type KeyPolicy struct {
	// The longest life a key may be created or updated with, counted from then.
	// A key without an expiry gets this one unless DefaultExpiry says another.
	// Default: no bound.
	MaxExpiry caddy.Duration `json:"max_expiry,omitempty"`
	// The life of a key that is created without an expiry. Default: as long as
	// MaxExpiry, or for good.
	DefaultExpiry caddy.Duration `json:"default_expiry,omitempty"`
	// A key that is not used for this long expires. Default: none does.
	IdleExpiry caddy.Duration `json:"idle_expiry,omitempty"`
	// How long the old secret stays good after a rotation that does not say.
	// Default: it is refused at once.
	RotateGrace caddy.Duration `json:"rotate_grace,omitempty"`
	// How long the old secret stays good after the first request with the new
	// one. Default: 1h.
	RotateSettle *caddy.Duration `json:"rotate_settle,omitempty"`
	// How long before its expiry a key's owner is told of it, each time by an
	// event; from the longest on answers carry Sunset. Default: 30d, 7d and 1d.
	ExpiryNotice []caddy.Duration `json:"expiry_notice,omitempty"`
}

// Audit is how the trail of changes is kept.
type Audit struct {
	// Entries older than this are removed, from 1d on. Default: none is.
	Retain caddy.Duration `json:"retain,omitempty"`
}

// Bounds of a configuration.
const (
	maxLife        = 10 * 366 * 24 * time.Hour
	maxNotices     = 8
	maxPermissions = 1000 // that are configured
	defaultSettle  = time.Hour
	minRetain      = 24 * time.Hour
)

var defaultNotice = []time.Duration{30 * 24 * time.Hour, 7 * 24 * time.Hour, 24 * time.Hour}

// life is one duration of the policy with its name.
type life struct {
	name string
	d    time.Duration
}

func (p *KeyPolicy) lives() []life {
	lives := []life{
		{"max_expiry", time.Duration(p.MaxExpiry)}, {"default_expiry", time.Duration(p.DefaultExpiry)},
		{"idle_expiry", time.Duration(p.IdleExpiry)}, {"rotate_grace", time.Duration(p.RotateGrace)},
	}
	if p.RotateSettle != nil {
		lives = append(lives, life{"rotate_settle", time.Duration(*p.RotateSettle)})
	}
	return lives
}

// validate says what is wrong with the policy, or nil.
func (p *KeyPolicy) validate() error {
	if p == nil {
		return nil
	}
	for _, l := range p.lives() {
		if l.d < 0 || l.d > maxLife || l.d%time.Second != 0 {
			return fmt.Errorf("%s %s: want whole seconds, at most ten years", l.name, l.d)
		}
	}
	if p.MaxExpiry > 0 && p.DefaultExpiry > p.MaxExpiry {
		return fmt.Errorf("default_expiry %s is longer than max_expiry %s", time.Duration(p.DefaultExpiry), time.Duration(p.MaxExpiry))
	}
	if len(p.ExpiryNotice) > maxNotices {
		return fmt.Errorf("expiry_notice: at most %d times, not %d", maxNotices, len(p.ExpiryNotice))
	}
	for i, n := range p.ExpiryNotice {
		d := time.Duration(n)
		if d < time.Second || d > maxLife || d%time.Second != 0 {
			return fmt.Errorf("expiry_notice %s: want whole seconds, from 1s to ten years", d)
		}
		if i > 0 && n >= p.ExpiryNotice[i-1] {
			return errors.New("expiry_notice: want the longest first and none twice, such as 30d 7d 1d")
		}
	}
	return nil
}

func (t *Audit) validate() error {
	if t == nil || t.Retain == 0 {
		return nil
	}
	if d := time.Duration(t.Retain); d < minRetain || d > maxLife || d%time.Second != 0 {
		return fmt.Errorf("audit retain %s: want from 1d to ten years", d)
	}
	return nil
}

// notice returns when the owner of a key is told of its expiry, the longest
// first.
func (p *KeyPolicy) notice() []time.Duration {
	if p == nil || len(p.ExpiryNotice) == 0 {
		return defaultNotice
	}
	list := make([]time.Duration, len(p.ExpiryNotice))
	for i, n := range p.ExpiryNotice {
		list[i] = time.Duration(n)
	}
	return list
}

func (a *App) provisionPermissions() error {
	if len(a.Permissions) > maxPermissions {
		return fmt.Errorf("at most %d permissions can be configured, not %d", maxPermissions, len(a.Permissions))
	}
	list := make([]access.Permission, 0, len(a.Permissions))
	for name, p := range a.Permissions {
		if p == nil {
			p = new(Permission)
		}
		if err := access.CheckDescription(p.Description); err != nil {
			return fmt.Errorf("permission %s: %w", name, err)
		}
		list = append(list, access.Permission{Name: name, Description: p.Description, Implies: p.Implies})
	}
	var err error
	if a.permissions, err = access.NewPermissions(list); err != nil {
		return err
	}
	if err := a.KeyPolicy.validate(); err != nil {
		return fmt.Errorf("key_policy: %w", err)
	}
	return a.Audit.validate()
}

// adopt takes the permissions of an API's own description for the configured
// ones if the configuration names none. It is called while handlers are
// provisioned and changes what a.permissions points to, for those that have
// taken it already.
func (a *App) adopt(names []string) error {
	if len(a.Permissions) > 0 {
		return nil
	}
	have := a.permissions.List()
	for _, n := range names {
		if !a.permissions.Configured() || !a.permissions.Known(n) {
			have = append(have, access.Permission{Name: n})
		}
	}
	all, err := access.NewPermissions(have)
	if err != nil {
		return err
	}
	*a.permissions = *all
	return nil
}

// checkGranted says what is wrong with the permissions of a plan or a tenant,
// or nil.
func checkGranted(known *access.Permissions, list []string) error {
	if len(list) > access.MaxPermissions {
		return fmt.Errorf("%d permissions, at most %d are allowed: use wildcards or implication", len(list), access.MaxPermissions)
	}
	return checkPermissions(known, list)
}

// checkPermissions says which of the names is no permission, or nil.
func checkPermissions(known *access.Permissions, list []string) error {
	for i, name := range list {
		if err := access.CheckPermission(name); err != nil {
			return err
		}
		for _, before := range list[:i] {
			if before == name {
				return fmt.Errorf("permission %s is listed twice", name)
			}
		}
		if !known.Known(name) {
			return unknownPermission(known, name)
		}
	}
	return nil
}

// unknownPermission is the error for a permission that is not configured, with
// the one that was likely meant.
func unknownPermission(known *access.Permissions, name string) error {
	if strings.HasSuffix(name, "*") {
		return fmt.Errorf("permission %s covers none of the defined ones", name)
	}
	var names []string
	for _, p := range known.List() {
		names = append(names, p.Name)
	}
	if near := nearest(name, names); near != "" {
		return fmt.Errorf("permission %s is not defined: did you mean %s?", name, near)
	}
	return fmt.Errorf("permission %s is not defined: add `permission %[1]s`", name)
}
