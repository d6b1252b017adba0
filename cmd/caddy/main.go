// Command caddy is Caddy with its standard modules and keytoll.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/keytoll/keytoll/caddymodule"
)

func main() {
	caddycmd.Main()
}
