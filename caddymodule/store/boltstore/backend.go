package boltstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// DefaultTimeout is how long Open waits for another process to let go of the
// database.
const DefaultTimeout = 5 * time.Second

// Options say where a database is and how it is opened.
type Options struct {
	// Path of the database file. Its directory is made with mode 0700 if there is
	// none. Required.
	Path string
	// Master is the master key. Nil means the file master.key beside the database,
	// which is generated together with a new database.
	Master *token.Master
	// Previous is tried when Master does not open the database: the master key
	// that Master is to replace. Nil means none. A new database is under Master
	// alone.
	Previous *token.Master
	// Timeout is how long Open waits for the lock. Default: DefaultTimeout.
	Timeout time.Duration
	// OpenFile opens the database file. It is there for tests; nil means
	// os.OpenFile.
	OpenFile func(name string, flag int, perm os.FileMode) (*os.File, error)
}

// Backend opens the database of its Options. It holds nothing open and is safe
// for concurrent use.
type Backend struct {
	opt  Options
	path string
}

var _ store.Backend = (*Backend)(nil)

// New returns a Backend. It touches no file; it reads links alone. An error
// says that the path is empty or cannot be made absolute.
func New(opt Options) (*Backend, error) {
	if opt.Path == "" {
		return nil, errors.New("the path of the database is empty")
	}
	path, err := filepath.Abs(opt.Path)
	if err != nil {
		return nil, err
	}
	if opt.Timeout <= 0 {
		opt.Timeout = DefaultTimeout
	}
	if opt.OpenFile == nil {
		opt.OpenFile = os.OpenFile
	}
	return &Backend{opt: opt, path: resolve(path)}, nil
}

// resolve follows links in as much of path as there is.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	dir, name := filepath.Split(path)
	if dir = filepath.Clean(dir); dir == path {
		return path
	}
	return filepath.Join(resolve(dir), name)
}

// Identity returns the absolute path of the database with links resolved.
func (b *Backend) Identity() string { return b.path }

// Open opens the database, making it and, if none is configured, a master key
// if there is none. The Store is a *Store.
//
// It returns ErrLocked after the timeout, ErrMasterKey, ErrNewer or ErrDamaged.
// The check of all pages goes on when Open returns: the first call of any
// method waits for it and returns ErrDamaged if it failed. A database that is
// gone while its commit counter is there is ErrDamaged too: an empty one in its
// place would refuse every key. Other errors are those of the system.
func (b *Backend) Open(ctx context.Context) (store.Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m, err := b.prepare()
	if err != nil {
		return nil, err
	}
	masters := []token.Master{m}
	if b.opt.Previous != nil {
		masters = append(masters, *b.opt.Previous)
	}
	s := &Store{path: b.path, masters: masters, writing: make(chan struct{}, 1), checked: make(chan struct{})}
	if err := s.open(ctx, b.opt); err != nil {
		return nil, err
	}
	return s, nil
}

// prepare sees that there is a database, and returns the master key.
func (b *Backend) prepare() (token.Master, error) {
	info, err := os.Stat(b.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return b.prepareNew()
	case err != nil:
		return token.Master{}, err
	case !info.Mode().IsRegular():
		return token.Master{}, fail(store.ErrDamaged, "database %s is not a file", b.path)
	}
	return b.Master()
}

// Master returns the master key of the Options, or that of the file master.key
// as it is now. It returns ErrMasterKey if there is none or it cannot be read.
func (b *Backend) Master() (token.Master, error) {
	if b.opt.Master != nil {
		return *b.opt.Master, nil
	}
	m, err := readMaster(b.masterPath())
	if errors.Is(err, fs.ErrNotExist) {
		return m, fail(store.ErrMasterKey, "database %s has no master key: set master_key to the key it was made with, or put the file %s back",
			b.path, b.masterPath())
	}
	return m, err
}

func (b *Backend) prepareNew() (m token.Master, err error) {
	if _, err := os.Stat(b.path + counterSuffix); err == nil {
		return m, fail(store.ErrDamaged, "database %s is gone, but its commit counter is there: put the database or a backup back; to start without any keys, delete %[1]s%s",
			b.path, counterSuffix)
	}
	if err := makeDir(filepath.Dir(b.path)); err != nil {
		return m, err
	}
	if b.opt.Master != nil {
		m = *b.opt.Master
	} else if m, err = readMaster(b.masterPath()); errors.Is(err, fs.ErrNotExist) {
		m, err = makeMaster(b.masterPath())
	}
	if err != nil {
		return m, err
	}
	return m, create(b.path, m, b.opt.OpenFile)
}

func (b *Backend) masterPath() string { return filepath.Join(filepath.Dir(b.path), masterFile) }
