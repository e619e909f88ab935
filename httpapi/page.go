// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"muster/fleet"
)

// Limits of Elkeid's lists.
const (
	defaultPageSize = 100
	maxPageSize     = 5000
)

// pageQuery is the query of Elkeid's lists.
type pageQuery struct {
	Page int `form:"page" default:"1" minimum:"1"`
	Size int `form:"page_size" default:"100" minimum:"1" maximum:"5000"`
	// OrderKey is a field of the listed documents; OrderValue 1 or -1, any
	// other value and the list is not sorted.
	OrderKey   string `form:"order_key"`
	OrderValue int    `form:"order_value"`
}

func parsePage(r *http.Request) (pageQuery, error) {
	values := r.URL.Query()
	q := pageQuery{Page: 1, Size: defaultPageSize, OrderKey: values.Get("order_key")}
	for _, f := range []struct {
		name  string
		into  *int
		limit int
	}{{"page", &q.Page, 1 << 30}, {"page_size", &q.Size, maxPageSize}} {
		text := values.Get(f.name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > f.limit {
			return q, fleet.Invalid(f.name, "%.20q is not a number between 1 and %d", text, f.limit)
		}
		*f.into = n
	}
	switch values.Get("order_value") {
	case "1":
		q.OrderValue = 1
	case "-1":
		q.OrderValue = -1
	}
	return q, nil
}

// sorts tells whether the list is to be sorted by a field.
func (q pageQuery) sorts() bool { return q.OrderKey != "" && q.OrderValue != 0 }

// bounds are the indices of the page in a list of n.
func (q pageQuery) bounds(n int) (from, to int) {
	from = min(n, (q.Page-1)*q.Size)
	return from, min(n, from+q.Size)
}

// v1Page is the data of Elkeid's /api/v1 lists.
type v1Page struct {
	Total    int  `json:"total"`
	Count    int  `json:"count"`
	Pages    int  `json:"pages"`
	Page     int  `json:"page"`
	PageSize int  `json:"page_size"`
	HasPrev  bool `json:"has_prev"`
	HasNext  bool `json:"has_next"`
	Items    any  `json:"items"`
}

// pageOf describes the page of q in a list of total.
func pageOf[T any](q pageQuery, total int, items []T) v1Page {
	pages := (total + q.Size - 1) / q.Size
	return v1Page{
		Total: total, Count: len(items), Pages: pages, Page: q.Page, PageSize: q.Size,
		HasPrev: q.Page > 1 && pages > 0, HasNext: q.Page < pages, Items: nonNil(items),
	}
}

// found is one chosen document of a list that is being searched: what is needed
// to put it in order and to make it when it is on the page.
type found[T any] struct {
	order any // value of the field to sort by
	what  T
}

// arrange sorts what was found, if q says so, and cuts out the page.
func arrange[T any](all []found[T], q pageQuery) []found[T] {
	if q.sorts() {
		slices.SortStableFunc(all, func(x, y found[T]) int {
			return q.OrderValue * fleet.CompareValues(x.order, y.order)
		})
	}
	from, to := q.bounds(len(all))
	return all[from:to]
}

// matchFold tells whether text holds part, whatever the case.
func matchFold(text, part string) bool {
	return strings.Contains(strings.ToLower(text), strings.ToLower(part))
}
