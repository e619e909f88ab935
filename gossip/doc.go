// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package gossip knows which nodes there are, how loaded each is, and which
// other services have registered. It needs no leader and no disk: a node that is
// cut off still answers from what it knows, and a lone node knows itself.
//
// Membership and facts about nodes travel by memberlist, encrypted with a key
// that all nodes derive from the cluster secret. Each second every node sends its
// load report straight to every other one; registrations spread epidemically and
// are compared in full now and then.
package gossip
