// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiclient

import (
	"context"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"

	"muster/internal/apiv1"
)

// All walks a list from its beginning, a page at a time: path without its
// query, query with whatever filters the list knows. It ends after limit items
// (0: never before the list does), or after it has yielded an error.
func All[T any](ctx context.Context, c *Client, path string, query url.Values, limit int) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		q := url.Values{}
		maps.Copy(q, query)
		for left := limit; ; {
			size := apiv1.MaxPageLimit
			if limit > 0 {
				size = min(left, size)
			}
			q.Set("limit", strconv.Itoa(size))
			var page apiv1.Page[T]
			if err := c.Do(ctx, http.MethodGet, path+"?"+q.Encode(), nil, &page); err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			left -= len(page.Items)
			if page.Next == "" || page.Next == q.Get("after") || (limit > 0 && left <= 0) {
				return
			}
			q.Set("after", page.Next)
		}
	}
}

// Collect gathers what All walks.
func Collect[T any](ctx context.Context, c *Client, path string, query url.Values, limit int) ([]T, error) {
	items := []T{}
	for item, err := range All[T](ctx, c, path, query, limit) {
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}
