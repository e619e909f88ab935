// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package gcpace decides how much garbage a process of many idle connections
// may hold. Go's own rule is as much garbage as there is live memory and stack:
// with thousands of idle agents, which make next to none, that is memory for
// nothing; with few busy ones it is too little, and they are collected for all the
// time. Here garbage is bounded by what is made in half a minute.
package gcpace
