package mgmt

import (
	"net/http"
	"net/url"
)

// ProviderKeys returns the provider keys that a tenant has stored.
func (c *Client) ProviderKeys(tenant string) (ProviderKeyList, error) {
	return ask[ProviderKeyList](c, http.MethodGet, "/tenants/"+url.PathEscape(tenant)+"/provider-keys", nil)
}

// StoreProviderKey stores a tenant's key for a provider, in place of one that is
// there.
func (c *Client) StoreProviderKey(tenant, provider string, req StoreProviderKey) (ProviderKey, error) {
	return ask[ProviderKey](c, http.MethodPut, providerPath(tenant, provider), req)
}

// VerifyProviderKey asks the provider whether the key that a tenant has stored is
// good.
func (c *Client) VerifyProviderKey(tenant, provider string) (ProviderVerdict, error) {
	return ask[ProviderVerdict](c, http.MethodPost, providerPath(tenant, provider)+"/verify", nil)
}

// DeleteProviderKey deletes the key that a tenant has stored for a provider.
func (c *Client) DeleteProviderKey(tenant, provider string) error {
	return c.do(http.MethodDelete, providerPath(tenant, provider), nil, nil)
}

// Rekey gives a bounded number of tenants new data keys under the first master
// key. It is called until the report is Done.
func (c *Client) Rekey() (RekeyReport, error) {
	return ask[RekeyReport](c, http.MethodPost, "/rekey", nil)
}

func providerPath(tenant, provider string) string {
	return "/tenants/" + url.PathEscape(tenant) + "/provider-keys/" + url.PathEscape(provider)
}
