package caddymodule

import (
	"errors"
	"fmt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

// requirements returns the permissions of each action.
func (a *API) requirements() map[string][]string {
	actions := apiActions[a.Kind]
	switch a.Kind {
	case mgmt.DeskMe:
		actions = []string{"me"}
	case mgmt.DeskUsage:
		actions = []string{"usage", "credits"}
	}
	require := make(map[string][]string, len(actions))
	for _, action := range actions {
		require[action] = a.Require
		if own, ok := a.RequireFor[action]; ok {
			require[action] = own
		}
	}
	return require
}

// checkRequirements refuses names of no permission, and an action that was left
// open by oversight: where permissions are configured each needs one.
func (a *API) checkRequirements(ps *access.Permissions, require map[string][]string) error {
	for _, action := range apiActions[a.Kind] {
		if len(require[action]) == 0 && ps.Configured() {
			return fmt.Errorf("permissions are configured, so keytoll_api %s must say which %s needs: add `require <permission>` or `require %[2]s <permission>`", a.Kind, action)
		}
	}
	if a.Kind == mgmt.DeskUsage && len(a.Require) == 0 && ps.Configured() {
		return errors.New("permissions are configured, so keytoll_api usage must say which a key needs: add `require <permission>`")
	}
	for _, needs := range require {
		if err := checkPermissions(ps, needs); err != nil {
			return fmt.Errorf("require: %w", err)
		}
	}
	return nil
}
