// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"errors"
	"fmt"
	"time"

	"muster/fleet"
)

const (
	// longRead is the age at which a read transaction counts as too long: it
	// keeps old pages from being used again.
	longRead = 100 * time.Millisecond
	// maxPage bounds what one transaction reads and one call returns.
	maxPage = 5000
)

// read runs fn on the state of the moment. fn must copy what it keeps and must
// not wait for anything.
func (s *Store) read(fn func(v view) error) error {
	if s.fsm.broken.Load() {
		return fmt.Errorf("reading the state: %w", fleet.ErrClosed)
	}
	file, err := s.files.state.acquire()
	if err != nil {
		return err
	}
	defer s.files.state.release(file)
	start := time.Now()
	err = file.read(fn)
	if time.Since(start) > longRead {
		s.metrics.longReads.Inc()
	}
	if _, ok := errors.AsType[*storageError](err); ok {
		s.fail(err)
	}
	return err
}

// loadOne reads the JSON under a key; a missing one is a refusal that names it.
func loadOne[T any](s *Store, b bucket, key, what string) (value T, err error) {
	err = s.read(func(v view) error {
		var ok bool
		if value, ok = load[T](v, b, key); !ok {
			return fleet.Refuse(fleet.CodeNotFound, "there is no %s %q", what, key)
		}
		return nil
	})
	return value, err
}

// loadPage decodes up to limit values with keys from `from` on.
func loadPage[T any](s *Store, b bucket, from []byte, limit int) (values []T, err error) {
	err = s.read(func(v view) error {
		v.scan(b, from, func(k, content []byte) bool {
			if len(values) == limit {
				return false
			}
			var value T
			mustDecode(b, k, content, &value)
			values = append(values, value)
			return true
		})
		return nil
	})
	return values, err
}

// afterKey is the first possible key above key; "" begins at the start.
func afterKey(key string) []byte {
	if key == "" {
		return nil
	}
	return append([]byte(key), 0)
}

func pageLimit(limit int) int {
	if limit <= 0 {
		return maxPage
	}
	return min(limit, maxPage)
}
