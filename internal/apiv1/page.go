// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiv1

// Problem is the body of every refusal and fault. Source: RFC 9457, with the
// members code and field added.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty" description:"What is wrong, and what to do about it."`
	Code   string `json:"code" description:"Names the kind of problem; its values never change."`
	Field  string `json:"field,omitempty" description:"The request's field that is wrong, if it is one."`
	Index  uint64 `json:"index,omitempty" description:"Of the replicated log, when it is not visible here yet: give it as X-Muster-Min-Index to wait for it."`
}

// Page is a part of a list, in the order of its keys.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" description:"Give it as ?after= to get the next page; absent on the last one."`
	// PageInfo is nil when all nodes that were asked have answered.
	PageInfo *PageInfo `json:"page_info,omitempty"`
}

// PageInfo says what a page may lack.
type PageInfo struct {
	Missing []string `json:"missing" description:"The nodes that did not answer in time, by name: what only they know is not in the list; agents are shown as the inventory knows them. The header X-Muster-Missing names them too."`
}

// PageQuery asks for a part of a list.
type PageQuery struct {
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" description:"The most items to answer."`
	After string `query:"after" description:"The next of the page before."`
}

// Limits of pages.
const (
	DefaultPageLimit = 100
	MaxPageLimit     = 1000
)
