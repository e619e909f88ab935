// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package apiv1 holds the bodies of the native API, /v1, as they go over the
// wire: the server fills them, the client and the OpenAPI document read them.
// It is plain data: times are RFC 3339 in UTC, lists are never null, and a
// field without omitempty or omitzero in its tag is always there.
package apiv1
