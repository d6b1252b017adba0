package boltstore

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// masterFile is the name of the generated master key, beside the database.
const masterFile = "master.key"

// readMaster reads a master key file. It returns fs.ErrNotExist if there is
// none, and ErrMasterKey for one that others can read or that holds no key.
func readMaster(path string) (token.Master, error) {
	info, err := os.Stat(path)
	if err != nil {
		return token.Master{}, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return token.Master{}, fail(store.ErrMasterKey, "master key file %s can be read by others (mode %04o): run chmod 600 %[1]s",
			path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return token.Master{}, &fault{kind: store.ErrMasterKey, text: "reading the master key: " + err.Error(), cause: err}
	}
	m, err := token.ParseMaster(string(text))
	if err != nil {
		return m, &fault{kind: store.ErrMasterKey, text: fmt.Sprintf("master key file %s: %v", path, err), cause: err}
	}
	return m, nil
}

// makeMaster generates a key into path, durable before it returns. If another
// process was first, its key is returned.
func makeMaster(path string) (token.Master, error) {
	var raw [token.MasterLen]byte
	_, _ = rand.Read(raw[:]) // never fails
	m, err := token.ParseMaster(base64.StdEncoding.EncodeToString(raw[:]))
	if err != nil {
		return m, err
	}
	tmp, err := writeTemp(filepath.Dir(path), m.Text()+"\n")
	if err != nil {
		return m, fmt.Errorf("making the master key: %w", err)
	}
	defer os.Remove(tmp) // gone already, but after an error
	switch err := install(tmp, path); {
	case errors.Is(err, fs.ErrExist):
		return readMaster(path)
	case err != nil:
		return m, fmt.Errorf("making the master key: %w", err)
	}
	return m, nil
}

// writeTemp writes text to a new file in dir, mode 0600, and syncs it.
func writeTemp(dir, text string) (name string, err error) {
	f, err := os.CreateTemp(dir, masterFile+".new-*")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}
