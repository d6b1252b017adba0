//go:build amd64 || arm64

package near

func fetch(p uintptr)
