// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package aksk signs HTTP requests with an access key and its secret, and
// checks such signatures, as the services of Elkeid Server do among themselves.
//
// A request carries the headers AccessKey, TimeStamp (unix seconds) and
// Signature, the hex HMAC-SHA256 of method, path, query, key, time and body
// hash. There is no nonce: whoever reads a request can repeat it for a minute,
// so the scheme belongs inside TLS.
package aksk
