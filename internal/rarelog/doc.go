// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package rarelog logs what others do wrong in such a way that they cannot fill
// the disk with it: one line of a kind at once, then one in a while.
package rarelog
