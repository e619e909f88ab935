// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

// What v1 needs of the rest of the package, beside what is there; its routes
// come in one piece when these are:
//   - Options has a field `Native Native` (see v1_node.go), checked in validate
//     like State: `{"native.report", o.Native.Report != nil}`;
//   - Options has `Directory Directory` with `Members interface{ Members() []fleet.Member }`;
//   - openRoutes holds "POST /v1/tokens": there the password is the
//     credential, or a token, which its handler checks itself.

// v1Routes are the routes of the native API.
func (a *API) v1Routes() []Route { return nil }
