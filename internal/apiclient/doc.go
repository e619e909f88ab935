// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package apiclient calls the native API, /v1, of a node: one request at a
// time, JSON in and out, a problem as an error that says what to do.
package apiclient
