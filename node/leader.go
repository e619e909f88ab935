// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import "muster/internal/pki"

// Leader returns the name of the node that leads the cluster, as far as this
// one knows, or "" without a leader.
func (n *Node) Leader() string {
	name, err := pki.NodeName(n.store.Status().Leader)
	if err != nil {
		return "" // there is none
	}
	return name
}
