// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package lifecycle owns goroutines: a Group starts them by name, stops all of
// them when one fails or when its context ends, and waits for every one.
package lifecycle
