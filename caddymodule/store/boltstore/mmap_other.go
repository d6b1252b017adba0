//go:build !linux

package boltstore

const (
	mmapFlags = 0
	mmapSize  = 0 // some systems make the file as large as the mapping
)
