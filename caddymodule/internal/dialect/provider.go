package dialect

import (
	"strconv"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// The fields of a provider key: in answers, in the answer to verify, and in a
// request to store one. Their shapes are the same in all dialects; their names
// and the form of times are the dialect's.
var (
	providerMembers = []string{"provider", "last_four", "created_at", "last_used_at", "last_verified_at", "valid"}
	verdictMembers  = []string{"provider", "valid", "reason"}
	providerInputs  = []string{"provider", "api_key"}
	providerFields  = [][]string{providerMembers, verdictMembers, providerInputs}
)

// ProviderInput reads the body of a request to store a provider key. Its error
// is an *InputError, in which no value stands: the key may be any of them.
func (c *Compiled) ProviderInput(body []byte) (provider, key string, err error) {
	object, err := members(body)
	if err != nil {
		return "", "", err
	}
	var values [2]string
	for i, field := range providerInputs {
		name := c.d.name(field)
		v := object[name]
		delete(object, name)
		if v == nil || v == "" {
			return "", "", refused(name, "%s is required", name)
		}
		text, ok := v.(string)
		if !ok {
			return "", "", refused(name, "%s: want a text", name)
		}
		values[i] = text
	}
	if err := c.unknown(object); err != nil {
		return "", "", err
	}
	return values[0], values[1], nil
}

// NoInput reads the body of a request that sets nothing. Its error is an
// *InputError.
func (c *Compiled) NoInput(body []byte) error {
	object, err := members(body)
	if err != nil {
		return err
	}
	return c.unknown(object)
}

// ProviderKey returns the body of the answer to a provider key that was stored.
func (c *Compiled) ProviderKey(k *access.ProviderKey) []byte {
	return append(c.appendProviderKey(nil, k), '\n')
}

// ProviderKeys returns the body of a list of provider keys: a bare array where
// the dialect's list of keys is one.
func (c *Compiled) ProviderKeys(list []*access.ProviderKey) []byte {
	bare := c.shapes[List].Array
	var b []byte
	if !bare {
		b = appendName(append(b, '{'), c.cased("provider_keys"))
	}
	b = append(b, '[')
	for i, k := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = c.appendProviderKey(b, k)
	}
	b = append(b, ']')
	if !bare {
		b = append(b, '}')
	}
	return append(b, '\n')
}

func (c *Compiled) appendProviderKey(b []byte, k *access.ProviderKey) []byte {
	b = append(b, '{')
	for _, field := range providerMembers {
		b = appendName(b, c.d.name(field))
		switch field {
		case "provider":
			b = appendString(b, k.Provider)
		case "last_four":
			b = appendText(b, k.LastFour)
		case "created_at":
			b = c.appendTime(b, unix(k.CreatedAt))
		case "last_used_at":
			b = c.appendTime(b, k.LastUsed)
		case "last_verified_at":
			b = c.appendTime(b, k.LastVerified)
		case "valid":
			b = appendValid(b, k)
		}
	}
	return append(b, '}')
}

// appendValid writes null for a key that no provider has judged.
func appendValid(b []byte, k *access.ProviderKey) []byte {
	if k.LastVerified == 0 {
		return append(b, "null"...)
	}
	return strconv.AppendBool(b, k.Valid)
}

// ProviderVerdict returns the body of the answer to verify. The reason is empty
// for a valid key.
func (c *Compiled) ProviderVerdict(provider string, valid bool, reason string) []byte {
	b := appendString(appendName([]byte{'{'}, c.d.name("provider")), provider)
	b = strconv.AppendBool(appendName(b, c.d.name("valid")), valid)
	b = appendText(appendName(b, c.d.name("reason")), reason)
	return append(b, '}', '\n')
}
