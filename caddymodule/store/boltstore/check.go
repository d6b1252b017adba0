package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// maxProblems bounds the list of a Report.
const maxProblems = 100

// Report is what Check found.
type Report struct {
	Bytes        int64  // length of the file
	Schema       uint32 // version of the buckets and records
	Commits      uint64 // number of the last commit
	Tenants      int
	Keys         int
	Revoked      int // keys among them
	Uses         int
	Blobs        int
	Answers      int
	Usage        int // records of usage
	ProviderKeys int
	DataKeys     int      // of tenants
	Audit        int      // records
	Buried       int      // entries of the list of revocations
	Problems     []string // what does not hold together, up to 100; none if all is well
}

// Check reads the whole database at path, changing nothing: its pages, the tag
// and form of each record, and that the records fit together. What is wrong is
// in the report; an error says that nothing could be checked: fs.ErrNotExist,
// ErrLocked while the store is open, ErrMasterKey or ErrNewer. The master keys
// are tried in turn; a nil one, or none, means the master.key beside the
// database.
func Check(path string, masters ...*token.Master) (Report, error) {
	return CheckBlobs(path, func(string, []byte) error { return nil }, masters...)
}

// CheckBlobs is Check for those who know what blobs are. What blob says is
// wrong with one goes into the report; it must not keep the value.
func CheckBlobs(path string, blob func(name string, value []byte) error, masters ...*token.Master) (Report, error) {
	path, err := realPath(path)
	if err != nil {
		return Report{}, err
	}
	keys, err := offlineMasters(path, masters)
	if err != nil {
		return Report{}, err
	}
	c := &checker{path: path, blob: blob, report: Report{Bytes: fileSize(path)}}
	db, err := openReadOnly(path)
	if err != nil {
		return c.done(err)
	}
	defer func() { _ = guard(path, db.Close) }()
	s := &Store{path: path, masters: keys, db: db}
	if err := guard(path, s.verify); err != nil {
		return c.done(err)
	}
	c.report.Commits = s.commits
	c.s, c.tagger = s, newTagger(s.master.Derive(tagPurpose))
	return c.done(guard(path, func() error { return db.View(c.all) }))
}

// checker is one run of Check.
type checker struct {
	path    string
	blob    func(name string, value []byte) error
	s       *Store
	report  Report
	tagger  *tagger
	tenants map[string]string
	digests map[[32]byte]struct{}
}

// done puts damage into the report; other errors stay errors.
func (c *checker) done(err error) (Report, error) {
	if err != nil && errors.Is(err, store.ErrDamaged) {
		c.problem("%v", err)
		err = nil
	}
	return c.report, err
}

func (c *checker) problem(format string, args ...any) {
	if len(c.report.Problems) < maxProblems {
		c.report.Problems = append(c.report.Problems, fmt.Sprintf(format, args...))
	}
}

func (c *checker) all(tx *bolt.Tx) error {
	c.report.Schema = binary.BigEndian.Uint32(tx.Bucket(bucketMeta).Get(metaSchema))
	if err := checkTree(c.path, tx); err != nil {
		return err
	}
	c.tenants, c.digests = map[string]string{}, map[[32]byte]struct{}{}
	c.checkTenants(tx)
	c.checkKeys(tx)
	c.checkReferences(tx)
	c.report.Blobs = c.records(tx, bucketBlobs, func(k, b []byte) {
		if err := c.blob(string(k), b); err != nil {
			c.problem("%v", err)
		}
	})
	if c.report.Schema > 1 {
		c.checkUses(tx)
		c.checkAudit(tx)
		c.checkAnswers(tx)
		c.report.Usage = c.records(tx, bucketUsage, func(_, _ []byte) {})
	}
	if c.report.Schema > 2 {
		c.checkProviders(tx)
	}
	c.checkFiles(tx)
	return nil
}

// records calls fn for the records of a bucket whose tags are right, and
// returns how many there are.
func (c *checker) records(tx *bolt.Tx, bucket []byte, fn func(id, record []byte)) (n int) {
	cur := tx.Bucket(bucket).Cursor()
	for k, v := cur.First(); k != nil; k, v = cur.Next() {
		n++
		if b, ok := c.tagger.open(bucket, k, v); ok {
			fn(k, b)
		} else {
			c.problem("record %q in %s fails its tag", k, bucket)
		}
	}
	return n
}

func (c *checker) checkTenants(tx *bolt.Tx) {
	c.report.Tenants = c.records(tx, bucketTenants, func(id, b []byte) {
		t, err := decodeTenant(id, b)
		if err != nil {
			c.problem("tenant %q: %v", id, err)
			return
		}
		c.tenants[t.ID] = t.ID
	})
}

func (c *checker) checkKeys(tx *bolt.Tx) {
	refs := tx.Bucket(bucketTenantKeys)
	c.report.Keys = c.records(tx, bucketKeys, func(id, b []byte) {
		k, err := decodeKey(id, b)
		if err != nil {
			c.problem("key %q: %v", id, err)
			return
		}
		if k.Status == access.StatusRevoked {
			c.report.Revoked++
		}
		if _, ok := c.tenants[k.Tenant]; !ok {
			c.problem("key %s belongs to tenant %q, which is not there", k.ID, k.Tenant)
		}
		if ref, _ := refs.Cursor().Seek(tenantKey(k.Tenant, k.ID)); !bytes.Equal(ref, tenantKey(k.Tenant, k.ID)) {
			c.problem("key %s is not listed under its tenant %q", k.ID, k.Tenant)
		}
		c.unique(k, k.Digest)
		if k.Previous != nil {
			c.unique(k, k.Previous.Digest)
		}
	})
}

func (c *checker) unique(k *access.Key, digest [32]byte) {
	if _, twice := c.digests[digest]; twice {
		c.problem("key %s has the same secret as another", k.ID)
	}
	c.digests[digest] = struct{}{}
}

// checkReferences looks for entries of keys that are not there; checkKeys has
// seen that none is lacking.
func (c *checker) checkReferences(tx *bolt.Tx) {
	keys, n := tx.Bucket(bucketKeys), 0
	cur := tx.Bucket(bucketTenantKeys).Cursor()
	for k, _ := cur.First(); k != nil; k, _ = cur.Next() {
		n++
		if at := len(k) - len(access.KeyID{}); at < 0 || keys.Get(k[at:]) == nil {
			c.problem("the list of keys by tenant has %q, which is not there", k)
		}
	}
	if n > c.report.Keys {
		c.problem("the list of keys by tenant has %d entries for %d keys", n, c.report.Keys)
	}
}

func (c *checker) checkUses(tx *bolt.Tx) {
	keys := tx.Bucket(bucketKeys)
	c.report.Uses = c.records(tx, bucketUses, func(id, b []byte) {
		if _, ok := decodeUse(b); !ok {
			c.problem("use of key %q: %v", id, errRecord)
		}
		if keys.Get(id) == nil {
			c.problem("there is a use of key %q, which is not there", id)
		}
	})
}

func (c *checker) checkAudit(tx *bolt.Tx) {
	var last uint64
	c.report.Audit = c.records(tx, bucketAudit, func(id, _ []byte) {
		if len(id) != 8 {
			c.problem("audit record %q has no number", id)
			return
		}
		seq := binary.BigEndian.Uint64(id)
		if last != 0 && seq != last+1 {
			c.problem("audit records %d to %d are missing", last+1, seq-1)
		}
		last = seq
	})
	if _, newest, err := readCommits(c.path, tx.Bucket(bucketMeta), c.tagger); err == nil && newest != nil && *newest > last {
		c.problem("audit records %d to %d are missing", last+1, *newest)
	}
}

func (c *checker) checkAnswers(tx *bolt.Tx) {
	ends, n := tx.Bucket(bucketAnswerEnds), 0
	c.report.Answers = c.records(tx, bucketAnswers, func(id, b []byte) {
		if len(b) < 8 || len(id) != 32 {
			c.problem("an answer: %v", errRecord)
			return
		}
		end := append(bytes.Clone(b[:8]), id...)
		if k, _ := ends.Cursor().Seek(end); !bytes.Equal(k, end) {
			c.problem("an answer is not listed under its end")
		}
	})
	_ = ends.ForEach(func(_, _ []byte) error { n++; return nil })
	if n != c.report.Answers {
		c.problem("the list of answers by their ends has %d entries for %d answers", n, c.report.Answers)
	}
}

// checkProviders sees that each provider key is a tenant's that has a data key:
// without it nothing opens.
func (c *checker) checkProviders(tx *bolt.Tx) {
	seals := map[string]struct{}{}
	c.report.DataKeys = c.records(tx, bucketDataKeys, func(id, b []byte) {
		k, err := decodeDataKey(id, b)
		if err != nil {
			c.problem("data key %q: %v", id, err)
			return
		}
		seals[k.Tenant] = struct{}{}
		if _, ok := c.tenants[k.Tenant]; !ok {
			c.problem("there is a data key of tenant %q, which is not there", k.Tenant)
		}
	})
	c.report.ProviderKeys = c.records(tx, bucketProviderKeys, func(id, b []byte) {
		k, err := decodeProviderKey(id, b)
		if err != nil {
			c.problem("provider key %q: %v", id, err)
			return
		}
		if _, ok := c.tenants[k.Tenant]; !ok {
			c.problem("%v: the tenant is not there", k)
		}
		if _, ok := seals[k.Tenant]; !ok {
			c.problem("%v: the tenant has no data key, without which it does not open", k)
		}
	})
}

// checkFiles reads the files beside the database.
func (c *checker) checkFiles(tx *bolt.Tx) {
	kept, err := readKept(c.path, tx, c.tagger)
	if err != nil {
		c.problem("%v", err)
	}
	entries, _, _, err := mendRevoked(c.path+revokedSuffix, c.tagger, kept) // as an opening would
	if err != nil {
		c.problem("%v", err)
	}
	c.report.Buried = len(entries)
	if n := readCounter(c.path + counterSuffix); n > c.report.Commits {
		c.problem("the database is older than its commit counter (%d < %d)", c.report.Commits, n)
	}
}
