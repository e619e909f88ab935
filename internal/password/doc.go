// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package password hashes and checks passwords with argon2id. Hashes are
// strings in PHC form that carry their parameters, so that these can be raised
// later. At most two are computed at once: each takes 19 MiB.
package password
