// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package proxyproto takes connections that come through a balancer which says,
// in a PROXY protocol header of version 2, who is at the other end
// (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2.2).
//
// It is our own and not one of the libraries: those put a buffer and a lock around
// every connection for its whole life, which is more than an idle agent's
// connection holds, and read the header when somebody first asks for the peer's
// address. Here the header is read before the connection is given out, to the
// byte, so that what is given out is the socket itself with another address.
package proxyproto
