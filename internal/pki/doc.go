// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package pki is the trust of a cluster: its certificate authority and the
// certificates that it issues, the TLS settings of the listeners, who a verified
// client is, and what is derived from the cluster secret.
//
// Identities are URI names in certificates: muster://CLUSTER/agent/ID and
// muster://CLUSTER/node/SERVER-ID. A client certificate without a URI is a fleet
// certificate: it may speak as any agent, as those of stock Elkeid agents do.
package pki
