// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"time"
)

// newToken makes a token's text, 256 random bits, and the hash that is stored.
func newToken() (text, hash string) {
	var b [32]byte
	rand.Read(b[:])
	text = base64.RawURLEncoding.EncodeToString(b[:])
	return text, hashToken(text)
}

// hashToken is the hex SHA-256 of a token's text. The text has 256 random bits,
// so no slow hash is needed.
func hashToken(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// newID makes an ID that sorts by time: 19 digits of Unix nanoseconds and six
// random letters, as Elkeid's task IDs are.
func newID(now time.Time) string {
	const letters = "abcdefghijklmnopqrstuvwxyzabcdef" // 32, so that no letter is cut off by the mask
	var b [6]byte
	rand.Read(b[:])
	for i := range b {
		b[i] = letters[b[i]&31]
	}
	return fmt.Sprintf("%019d%s", now.UnixNano(), b[:])
}
