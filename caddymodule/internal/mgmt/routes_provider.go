package mgmt

import (
	"errors"
	"net/http"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func (h *Handler) routeProviders() {
	const all = "/tenants/{tenant}/provider-keys"
	h.route(all, methods{"GET": serveJSON(h, http.StatusOK, listProviderKeys)})
	h.route(all+"/{provider}", methods{
		"PUT":    serveJSON(h, http.StatusCreated, storeProviderKey),
		"DELETE": serveJSON(h, http.StatusNoContent, deleteProviderKey),
	})
	h.route(all+"/{provider}/verify", methods{"POST": serveJSON(h, http.StatusOK, verifyProviderKey)})
	h.route("/rekey", methods{"POST": serveJSON(h, http.StatusOK, rekey)})
}

func listProviderKeys(c *call, _ none) (*ProviderKeyList, error) {
	if _, err := c.parameters(); err != nil {
		return nil, err
	}
	keys, err := c.ProviderKeys(c.Context(), c.PathValue("tenant"))
	if err != nil {
		return nil, err
	}
	list := &ProviderKeyList{ProviderKeys: make([]ProviderKey, 0, len(keys))}
	for _, k := range keys {
		list.ProviderKeys = append(list.ProviderKeys, ShowProviderKey(k))
	}
	return list, nil
}

func storeProviderKey(c *call, req StoreProviderKey) (ProviderKey, error) {
	if _, err := c.parameters(); err != nil {
		return ProviderKey{}, err
	}
	k, replaced, err := c.StoreProviderKey(c.Context(), c.PathValue("tenant"), c.PathValue("provider"), token.Wrap(req.APIKey))
	if err != nil {
		return ProviderKey{}, err
	}
	if replaced {
		c.status = http.StatusOK
	}
	return ShowProviderKey(k), nil
}

func deleteProviderKey(c *call, _ none) (none, error) {
	if _, err := c.parameters(); err != nil {
		return none{}, err
	}
	return none{}, c.DeleteProviderKey(c.Context(), c.PathValue("tenant"), c.PathValue("provider"))
}

func verifyProviderKey(c *call, _ none) (ProviderVerdict, error) {
	if _, err := c.parameters(); err != nil {
		return ProviderVerdict{}, err
	}
	if c.door.Verify == nil {
		return ProviderVerdict{}, notServed("this server does not verify provider keys")
	}
	k, err := c.ProviderKey(c.Context(), c.PathValue("tenant"), c.PathValue("provider"))
	if err != nil {
		return ProviderVerdict{}, err
	}
	verdict, err := c.door.Verify(c.Context(), k.Tenant, k.Provider)
	verdict.Provider = k.Provider
	return verdict, err
}

func rekey(c *call, _ none) (RekeyReport, error) {
	if _, err := c.parameters(); err != nil {
		return RekeyReport{}, err
	}
	if c.door.Rekey == nil {
		return RekeyReport{}, notServed("this server does not rekey")
	}
	report, err := c.door.Rekey(c.Context())
	if e, ok := errors.AsType[*registrar.Error](err); ok && e.Code == registrar.Conflict && report.Done {
		report.Failed, err = e.Message, nil
	}
	return report, err
}

func notServed(message string) error {
	return &registrar.Error{Code: registrar.Unavailable, Message: message}
}
