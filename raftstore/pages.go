// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"encoding/binary"
	"fmt"
	"os"
)

// The layout of bbolt's pages: a header of 16 bytes (page ID 8, flags 2, count
// 2, overflow 4), then elements of 16 bytes. It is fixed by bbolt's file format
// version 2.
const (
	pageHeaderBytes  = 16
	pageElementBytes = 16
	pageIsBranch     = 0x01
	pageIsLeaf       = 0x02
	elementIsBucket  = 0x01
	firstDataPage    = 2
)

// walkPages checks that the pages in use form a tree. bbolt itself follows a
// circle for ever, and a disk that lost some writes can leave one.
func walkPages(v view) error {
	f, err := os.Open(v.tx.DB().Path())
	if err != nil {
		return fmt.Errorf("checking the pages: %w", err)
	}
	defer f.Close()
	size := uint64(v.tx.DB().Info().PageSize)
	limit := uint64(v.tx.Size()) / size
	seen := make(map[uint64]bool)
	for todo := []uint64{uint64(v.tx.Cursor().Bucket().Root())}; len(todo) > 0; {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if id < firstDataPage || id >= limit || seen[id] {
			panic(damage{fmt.Sprintf("page %d is used twice or lies outside", id)})
		}
		seen[id] = true
		page, err := readPage(f, id, size, limit)
		if err != nil {
			return err
		}
		todo = append(todo, childPages(id, page)...)
	}
	return nil
}

func readPage(f *os.File, id, size, limit uint64) ([]byte, error) {
	head := make([]byte, pageHeaderBytes)
	if _, err := f.ReadAt(head, int64(id*size)); err != nil {
		return nil, fmt.Errorf("checking page %d: %w", id, err)
	}
	pages := 1 + uint64(binary.NativeEndian.Uint32(head[12:]))
	if own := binary.NativeEndian.Uint64(head); own != id || id+pages > limit {
		panic(damage{fmt.Sprintf("page %d says that it is page %d, %d long", id, own, pages)})
	}
	page := make([]byte, pages*size)
	if _, err := f.ReadAt(page, int64(id*size)); err != nil {
		return nil, fmt.Errorf("checking page %d: %w", id, err)
	}
	return page, nil
}

// childPages returns the pages below a branch, or the roots of a leaf's buckets.
func childPages(id uint64, page []byte) (children []uint64) {
	flags, count := binary.NativeEndian.Uint16(page[8:]), int(binary.NativeEndian.Uint16(page[10:]))
	if flags != pageIsBranch && flags != pageIsLeaf || pageHeaderBytes+count*pageElementBytes > len(page) {
		panic(damage{fmt.Sprintf("page %d is neither branch nor leaf", id)})
	}
	for i := range count {
		at := pageHeaderBytes + i*pageElementBytes
		element := page[at : at+pageElementBytes]
		if flags == pageIsBranch {
			children = append(children, binary.NativeEndian.Uint64(element[8:]))
			continue
		}
		if binary.NativeEndian.Uint32(element)&elementIsBucket == 0 {
			continue
		}
		// Element: flags 4, position of the key 4, key size 4, value size 4. The
		// value of a bucket begins with its root page, 0 if it lies in line.
		value := at + int(binary.NativeEndian.Uint32(element[4:])) + int(binary.NativeEndian.Uint32(element[8:]))
		if value+8 > len(page) {
			panic(damage{fmt.Sprintf("page %d holds a bucket that lies outside", id)})
		}
		if root := binary.NativeEndian.Uint64(page[value:]); root != 0 {
			children = append(children, root)
		}
	}
	return children
}
