package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/keytoll/keytoll/caddymodule/internal/leaks"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// provisionLeaks reads the programme's keys and makes the endpoint.
func (a *API) provisionLeaks(ctx caddy.Context) error {
	mod, err := ctx.App("keytoll")
	if err != nil {
		return fmt.Errorf("getting keytoll app: %w", err)
	}
	app := mod.(*App)
	pems := make(map[string]string, len(a.PublicKeys))
	for id, file := range a.PublicKeys {
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("public key %s: %w", id, err)
		}
		pems[id] = string(text)
	}
	keys, err := leaks.ParseKeys(pems)
	if err != nil {
		return err
	}
	a.desk = &leaks.Handler{
		Keys: keys, Revoke: app.revokeLeaked,
		OnError: func(err error) { a.logger.Error("revoking leaked keys", zap.Error(err)) },
	}
	return nil
}

// revokeLeaked revokes a key by its secret and reports whether there is one.
func (a *App) revokeLeaked(ctx context.Context, secret token.Secret) (bool, error) {
	reg, err := a.activeRegistrar()
	if err != nil {
		return false, err
	}
	_, err = reg.RevokeSecret(bySystem(ctx, "leaks"), secret)
	if e, ok := errors.AsType[*registrar.Error](err); ok && e.Code == registrar.NotFound {
		return false, nil
	}
	return err == nil, err
}
