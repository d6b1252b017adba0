package foreign

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Bounds of argon2. Memory is in KiB; memory times passes is the work.
const (
	maxArgonMemory  = 256 << 10
	maxArgonTime    = 10
	maxArgonThreads = 16
	maxArgonWork    = 1 << 20 // KiB·passes: about a second
	minArgonHash    = 16
	maxArgonHash    = 64
	minArgonSalt    = 8
	maxArgonSalt    = 64
)

type argonHash struct {
	id         bool // argon2id, else argon2i
	mem, time  uint32
	threads    uint8
	salt, hash []byte
}

func parseArgon(text string) (scheme, error) {
	parts := strings.Split(text, "$")
	if len(parts) != 6 {
		return nil, errors.New("not an argon2 hash: want $argon2id$v=19$m=…,t=…,p=…$salt$hash")
	}
	h := argonHash{id: parts[1] == "argon2id"}
	if !h.id && parts[1] != "argon2i" {
		return nil, errors.New("of argon2 only argon2id and argon2i are read")
	}
	if parts[2] != "v=19" {
		return nil, errors.New("of argon2 only version 19 is read: want v=19")
	}
	if err := h.parameters(parts[3]); err != nil {
		return nil, err
	}
	var err error
	if h.salt, err = argonBytes("salt", parts[4], minArgonSalt, maxArgonSalt); err != nil {
		return nil, err
	}
	if h.hash, err = argonBytes("hash", parts[5], minArgonHash, maxArgonHash); err != nil {
		return nil, err
	}
	return &h, nil
}

// parameters reads m, t and p, in that order, as the PHC string format has it.
func (h *argonHash) parameters(text string) error {
	values := strings.Split(text, ",")
	if len(values) != 3 {
		return errors.New("argon2 parameters: want m=…,t=…,p=…")
	}
	var n [3]uint32
	for i, name := range []string{"m", "t", "p"} {
		digits, ok := strings.CutPrefix(values[i], name+"=")
		v, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || v == 0 || digits[0] == '0' || digits[0] == '+' {
			return fmt.Errorf("argon2 parameters: want %s= and a whole number from 1", name)
		}
		n[i] = uint32(v)
	}
	switch m, t, p := n[0], n[1], n[2]; {
	case m > maxArgonMemory:
		return fmt.Errorf("argon2 with %d KiB of memory: at most %d are allowed", m, maxArgonMemory)
	case t > maxArgonTime:
		return fmt.Errorf("argon2 with %d passes: at most %d are allowed", t, maxArgonTime)
	case p > maxArgonThreads:
		return fmt.Errorf("argon2 with %d threads: at most %d are allowed", p, maxArgonThreads)
	case m < 8*p:
		return errors.New("argon2 needs 8 KiB of memory for each thread")
	case uint64(m)*uint64(t) > maxArgonWork:
		return fmt.Errorf("argon2 with %d passes over %d KiB: at most %d KiB in all passes are allowed", t, m, maxArgonWork)
	}
	h.mem, h.time, h.threads = n[0], n[1], uint8(n[2])
	return nil
}

func argonBytes(what, text string, least, most int) ([]byte, error) {
	b, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("argon2 %s: want base64 without padding", what)
	}
	if len(b) < least || len(b) > most {
		return nil, fmt.Errorf("argon2 %s of %d bytes: want %d to %d", what, len(b), least, most)
	}
	return b, nil
}

func (h *argonHash) verify(text string) bool {
	derive := argon2.Key
	if h.id {
		derive = argon2.IDKey
	}
	sum := derive([]byte(text), h.salt, h.time, h.mem, h.threads, uint32(len(h.hash)))
	return subtle.ConstantTimeCompare(sum, h.hash) == 1
}

func (h *argonHash) slow() bool  { return true }
func (h *argonHash) memory() int { return int(h.mem) << 10 }

func (h *argonHash) String() string {
	kind := "argon2i"
	if h.id {
		kind = "argon2id"
	}
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$%s$v=19$m=%d,t=%d,p=%d$%s$%s", kind, h.mem, h.time, h.threads, enc.EncodeToString(h.salt), enc.EncodeToString(h.hash))
}
