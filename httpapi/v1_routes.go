// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

// v1Routes are the routes of the native API.
func (a *API) v1Routes() []Route { return nil }
