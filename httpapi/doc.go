// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package httpapi answers Muster's HTTP requests: the routes of Elkeid's
// ServiceDiscovery, AgentCenter and Manager in their own shapes, the native API
// under /v1, health and metrics. One route table (Route) names for every path
// where it is served and who may call it; nothing is served that does not say so.
//
// Files are named after whose routes they hold: mg_ Elkeid's Manager, sd its
// ServiceDiscovery, ac its AgentCenter, v1_ the native API.
//
// A request passes, in this order: metrics and recovery from panics, the rule
// about credentials over plain HTTP, the body limit and the deadline,
// authentication and permission, the handler. A handler either writes its
// answer or returns an error, which one table turns into the answer that the
// route's family of clients expects.
package httpapi
