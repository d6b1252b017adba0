package mgmt

import (
	"errors"
	"net/http"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// The actions of each path of a Desk for provider keys, by method.
var (
	onProviders = map[string]string{http.MethodGet: ActionList, http.MethodPost: ActionStore}
	onProvider  = map[string]string{http.MethodDelete: ActionDelete}
	onVerify    = map[string]string{http.MethodPost: ActionVerify}
)

var routesOfProviderKeys = map[string]func(*visit) error{
	ActionStore:  (*visit).storeProviderKey,
	ActionList:   (*visit).listProviderKeys,
	ActionVerify: (*visit).verifyProviderKey,
	ActionDelete: (*visit).deleteProviderKey,
}

// storeProviderKey keeps a key. No error says what the request called the
// provider: a key may stand in its place by a slip.
func (v *visit) storeProviderKey() error {
	body, err := v.body()
	if err != nil {
		return err
	}
	name, key, err := v.o.Dialect.ProviderInput(body)
	if err != nil {
		return err
	}
	if access.CheckProvider(name) != nil {
		return noSuchProvider()
	}
	k, replaced, err := v.desk.StoreProviderKey(v.r.Context(), name, token.Wrap(key))
	if e, ok := errors.AsType[*registrar.Error](err); ok && e.Code == registrar.InvalidRequest && e.Field == "provider" {
		return noSuchProvider()
	}
	if err != nil {
		return err
	}
	status := http.StatusCreated
	if replaced {
		status = http.StatusOK
	}
	v.send(status, v.o.Dialect.ProviderKey(k), "application/json")
	return nil
}

func noSuchProvider() error { return badRequest("provider", "there is no provider of that name") }

func (v *visit) listProviderKeys() error {
	if _, err := v.query(); err != nil {
		return err
	}
	list, err := v.desk.ProviderKeys(v.r.Context())
	if err != nil {
		return err
	}
	v.send(http.StatusOK, v.o.Dialect.ProviderKeys(list), "application/json")
	return nil
}

func (v *visit) verifyProviderKey() error {
	body, err := v.body()
	if err != nil {
		return err
	}
	if err := v.o.Dialect.NoInput(body); err != nil {
		return err
	}
	k, err := v.desk.ProviderKey(v.r.Context(), v.name) // for a caller that is still good
	if err != nil {
		return noneStored(err)
	}
	verdict, err := v.o.Verify(registrar.WithActor(v.r.Context(), v.actor()), k.Tenant, k.Provider)
	if err != nil {
		return noneStored(err)
	}
	v.send(http.StatusOK, v.o.Dialect.ProviderVerdict(k.Provider, verdict.Valid, verdict.Reason), "application/json")
	return nil
}

func (v *visit) deleteProviderKey() error {
	if _, err := v.query(); err != nil {
		return err
	}
	if err := v.desk.DeleteProviderKey(v.r.Context(), v.name); err != nil {
		return noneStored(err)
	}
	v.send(http.StatusNoContent, nil, "")
	return nil
}

// noneStored has one answer for all that a path may name and the tenant has no
// key for: a provider that is not there must not differ from one that is. The
// status of foreign ids is not for it: no name is another tenant's.
func noneStored(err error) error {
	if e, ok := errors.AsType[*registrar.Error](err); ok && e.Code == registrar.NotFound {
		return &Error{Status: http.StatusNotFound, Code: string(registrar.NotFound), Message: "there is no key for this provider"}
	}
	return err
}
