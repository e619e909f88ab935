// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"
	"slices"
	"strings"

	"muster/internal/apiv1"
)

// HeaderMissing names the nodes that did not answer in time, so that what they
// know is missing in an answer about the whole fleet: names, with commas between.
const HeaderMissing = "X-Muster-Missing"

// noteMissing sets HeaderMissing, and returns the names in order for the answer's
// page_info.missing; without any it sets nothing. It is called before the answer
// is written.
func noteMissing(w http.ResponseWriter, names []string) []string {
	if len(names) == 0 {
		return nil
	}
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	w.Header().Set(HeaderMissing, strings.Join(names, ","))
	return names
}

// pageMissing is noteMissing for a page of /v1.
func pageMissing[T any](w http.ResponseWriter, p apiv1.Page[T], names []string) apiv1.Page[T] {
	if names = noteMissing(w, names); len(names) > 0 {
		p.PageInfo = &apiv1.PageInfo{Missing: names}
	}
	return p
}
