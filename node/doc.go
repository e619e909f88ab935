// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package node puts a Muster node together: from a Config it opens every part,
// starts them in order and stops them in reverse. It is the only package that
// knows all others.
package node
