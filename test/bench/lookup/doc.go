// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package lookup asks service discovery over kept connections, as often as it
// answers, at little cost of its own.
package lookup
