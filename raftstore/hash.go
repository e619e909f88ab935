// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"

	"github.com/RoaringBitmap/roaring/v2"
)

// stateHash is the logical hash of the replicated state: the sum modulo 2^128
// of one hash per item, so it can be kept up to date item by item and does not
// depend on how items lie in the file.
type stateHash struct{ hi, lo uint64 }

func (h *stateHash) add(o stateHash) {
	var carry uint64
	h.lo, carry = bits.Add64(h.lo, o.lo, 0)
	h.hi, _ = bits.Add64(h.hi, o.hi, carry)
}

func (h *stateHash) sub(o stateHash) {
	var borrow uint64
	h.lo, borrow = bits.Sub64(h.lo, o.lo, 0)
	h.hi, _ = bits.Sub64(h.hi, o.hi, borrow)
}

// String returns 32 hex digits.
func (h stateHash) String() string { return fmt.Sprintf("%016x%016x", h.hi, h.lo) }

func parseHash(text string) (stateHash, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 16 {
		return stateHash{}, fmt.Errorf("%q is not a state hash", text)
	}
	return stateHash{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}

// itemHash is the first half of the SHA-256 of the item. A bitmap counts as the
// sorted list of its members, because the same set has many encodings.
func itemHash(b bucket, key, content []byte) stateHash {
	h := sha256.New()
	var length [binary.MaxVarintLen64]byte
	for _, part := range [][]byte{[]byte(b), key} {
		h.Write(length[:binary.PutUvarint(length[:], uint64(len(part)))])
		h.Write(part)
	}
	if b == bucketTaskSets {
		set := decodeSet(key, content)
		list := make([]byte, 0, 2*set.GetCardinality())
		for it := set.Iterator(); it.HasNext(); {
			list = binary.BigEndian.AppendUint16(list, uint16(it.Next()))
		}
		content = list
	}
	h.Write(content)
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return stateHash{binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])}
}

// hashState computes the hash from scratch and so checks every value's checksum.
func hashState(r reader) stateHash {
	var sum stateHash
	for _, b := range replicatedBuckets() {
		r.scan(b, nil, func(k, content []byte) bool {
			sum.add(itemHash(b, k, content))
			return true
		})
	}
	return sum
}

// decodeSet reads one chunk of a set; it panics with damage.
func decodeSet(key, content []byte) *roaring.Bitmap {
	set := roaring.New()
	if content == nil {
		return set
	}
	if err := set.UnmarshalBinary(content); err != nil {
		panic(damage{fmt.Sprintf("the set %q cannot be read: %v", key, err)})
	}
	return set
}

// encodeSet writes a chunk in roaring's portable format.
func encodeSet(set *roaring.Bitmap) []byte {
	set.RunOptimize()
	data, err := set.ToBytes()
	if err != nil {
		panic(err)
	}
	return data
}
