// Package leaks answers the signed messages of secret-scanning partner
// programmes: keys that were found in public are revoked at once, and the
// programme is told which of its finds were keys. The form is that of GitHub's
// partner programme. Public keys are configured and never fetched.
package leaks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/keytoll/keytoll/caddymodule/token"
)

// Bounds of a message.
const (
	MaxBody   = 1 << 20 // bytes
	MaxTokens = 1000
)

// The headers of a message.
const (
	headerIdentifier = "Github-Public-Key-Identifier"
	headerSignature  = "Github-Public-Key-Signature"
)

// The labels of an answer: whether a find was a key of ours.
const (
	truePositive  = "true_positive"
	falsePositive = "false_positive"
)

// Handler is the endpoint. Its answers depend on nothing but the message and
// on which of its tokens are keys; a message that comes again does no harm. It
// is safe for concurrent use.
type Handler struct {
	// Keys are the public keys of the programme by identifier; see ParseKeys.
	// Without any every message is refused.
	Keys map[string]*ecdsa.PublicKey
	// Revoke revokes a key by its secret and reports whether there was one; a key
	// that is revoked already counts. It must be safe to call again.
	Revoke func(ctx context.Context, secret token.Secret) (found bool, err error)
	// OnError is told of errors of Revoke, at most once a message. It may be nil.
	OnError func(error)
}

// find is one match of a message. Members that are not listed are ignored: a
// programme that adds one must not keep leaked keys alive.
type find struct {
	Token string `json:"token"`
	Type  string `json:"type"`
}

// verdict is what a programme is told of a find.
type verdict struct {
	Hash  string `json:"token_hash"` // SHA-256 of the token in hex: the token is not sent back
	Type  string `json:"token_type"`
	Label string `json:"label"`
}

// ParseKeys reads public keys in PEM by their identifiers. Errors name the
// identifier: no PEM, or no ECDSA key on the curve P-256.
func ParseKeys(pems map[string]string) (map[string]*ecdsa.PublicKey, error) {
	keys := make(map[string]*ecdsa.PublicKey, len(pems))
	for id, text := range pems {
		if id == "" {
			return nil, errors.New("a public key needs its identifier")
		}
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, fmt.Errorf("public key %s: not PEM", id)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("public key %s: %w", id, err)
		}
		key, ok := parsed.(*ecdsa.PublicKey)
		if !ok || key.Curve != elliptic.P256() {
			return nil, fmt.Errorf("public key %s: want an ECDSA key on the curve P-256", id)
		}
		keys[id] = key
	}
	return keys, nil
}

// ServeHTTP answers one message: 200 with a verdict on each of its tokens, 401
// if it is not signed with a configured key, 400, 405 or 413 for what is no
// message, and 503 if a key could not be revoked, so that the message comes
// again.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusMethodNotAllowed, "method_not_allowed")
		return
	}
	key, signature := h.signature(r.Header)
	if key == nil { // not worth reading
		refuse(w, http.StatusUnauthorized, "invalid_signature")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			refuse(w, http.StatusRequestEntityTooLarge, "too_large")
			return
		}
		refuse(w, http.StatusBadRequest, "invalid_request")
		return
	}
	if sum := sha256.Sum256(body); !ecdsa.VerifyASN1(key, sum[:], signature) {
		refuse(w, http.StatusUnauthorized, "invalid_signature")
		return
	}
	var finds []find
	if json.Unmarshal(body, &finds) != nil || len(finds) > MaxTokens {
		refuse(w, http.StatusBadRequest, "invalid_request")
		return
	}
	verdicts, err := h.revoke(r.Context(), finds)
	if err != nil {
		if h.OnError != nil {
			h.OnError(err)
		}
		refuse(w, http.StatusServiceUnavailable, "unavailable")
		return
	}
	answer, _ := json.Marshal(verdicts)
	_, _ = w.Write(answer)
}

// signature returns the signature of a message and the configured key that it
// is said to be of; nil if there is none.
func (h *Handler) signature(header http.Header) (*ecdsa.PublicKey, []byte) {
	ids, signatures := header.Values(headerIdentifier), header.Values(headerSignature)
	if len(ids) != 1 || len(signatures) != 1 {
		return nil, nil
	}
	signature, err := base64.StdEncoding.DecodeString(signatures[0])
	if err != nil {
		return nil, nil
	}
	return h.Keys[ids[0]], signature
}

// revoke revokes what it can even if some of it fails, and returns the first
// error.
func (h *Handler) revoke(ctx context.Context, finds []find) (verdicts []verdict, first error) {
	labels := make(map[string]string, len(finds))
	verdicts = make([]verdict, 0, len(finds))
	for _, f := range finds {
		label, known := labels[f.Token]
		if !known {
			label = falsePositive
			found, err := h.revokeOne(ctx, f.Token)
			if err != nil && first == nil {
				first = err
			}
			if found {
				label = truePositive
			}
			labels[f.Token] = label
		}
		sum := sha256.Sum256([]byte(f.Token))
		verdicts = append(verdicts, verdict{Hash: hex.EncodeToString(sum[:]), Type: f.Type, Label: label})
	}
	return verdicts, first
}

func (h *Handler) revokeOne(ctx context.Context, text string) (bool, error) {
	if text == "" || len(text) > token.MaxLen {
		return false, nil
	}
	return h.Revoke(ctx, token.Wrap(text))
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"error":"`+code+`"}`)
}
