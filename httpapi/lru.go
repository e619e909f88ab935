// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"container/list"
	"sync"
)

// lru maps keys to values and forgets what was not used for longest, so that
// what clients send cannot fill the memory. It is safe for concurrent use.
type lru[V any] struct {
	mu    sync.Mutex
	limit int
	order *list.List // of *lruEntry[V], the newest in front
	items map[string]*list.Element
}

type lruEntry[V any] struct {
	key   string
	value V
}

func newLRU[V any](limit int) *lru[V] {
	return &lru[V]{limit: limit, order: list.New(), items: make(map[string]*list.Element)}
}

// update calls fn with the key's value, the zero value if there is none, under
// the lock. The value is kept if fn returns true and forgotten otherwise.
func (l *lru[V]) update(key string, fn func(v *V) (keep bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	el, ok := l.items[key]
	if !ok {
		el = l.order.PushFront(&lruEntry[V]{key: key})
		l.items[key] = el
	} else {
		l.order.MoveToFront(el)
	}
	if !fn(&el.Value.(*lruEntry[V]).value) {
		l.order.Remove(el)
		delete(l.items, key)
		return
	}
	if l.order.Len() > l.limit {
		oldest := l.order.Back()
		l.order.Remove(oldest)
		delete(l.items, oldest.Value.(*lruEntry[V]).key)
	}
}

func (l *lru[V]) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.order.Len()
}
