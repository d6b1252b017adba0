package foreign

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// Bounds of bcrypt. The cost is a power of two: 14 takes about a second.
const (
	minCost       = 4
	maxCost       = 14
	bcryptLen     = 60
	maxBcryptText = 72 // bcrypt is blind to what comes after
)

// bcryptAlphabet is the base64 of bcrypt.
const bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

type bcryptHash string

func parseBcrypt(text string) (scheme, error) {
	if len(text) != bcryptLen || text[3] != '$' || text[6] != '$' || strings.IndexByte("aby", text[2]) < 0 {
		return nil, errors.New("not a bcrypt hash: want $2a$, $2b$ or $2y$, the cost and 53 characters")
	}
	if !decimal(text[4]) || !decimal(text[5]) {
		return nil, errors.New("not a bcrypt hash: the cost is no number")
	}
	if cost := int(text[4]-'0')*10 + int(text[5]-'0'); cost < minCost || cost > maxCost {
		return nil, fmt.Errorf("bcrypt of cost %d: want %d to %d", cost, minCost, maxCost)
	}
	if strings.Trim(text[7:], bcryptAlphabet) != "" {
		return nil, errors.New("not a bcrypt hash: the last 53 characters are not bcrypt's base64")
	}
	return bcryptHash(text), nil
}

// verify refuses what bcrypt does not look at as a whole: text after byte 72,
// and NUL, with which bcrypt repeats a short text.
func (h bcryptHash) verify(text string) bool {
	if len(text) > maxBcryptText || strings.IndexByte(text, 0) >= 0 {
		return false
	}
	return bcrypt.CompareHashAndPassword([]byte(h), []byte(text)) == nil
}

func (h bcryptHash) slow() bool     { return true }
func (h bcryptHash) memory() int    { return 8 << 10 }
func (h bcryptHash) String() string { return string(h) }

func decimal(c byte) bool { return '0' <= c && c <= '9' }
