// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"cmp"
	"encoding/json"
	"fmt"

	"muster/fleet"
)

// A message between nodes begins with a byte that says its kind:
//
//	1  load          length of the node's name (1 byte), name, report
//	2  registration  JSON
//	3  leaving       the node's name; memberlist's events do not tell a node that
//	                 left on purpose from a dead one
//	4  question      the asker's name, and of each node whose report is overdue
//	                 there the name and the sequence of the last one (8 bytes)
//	5  reports       of each node the name, the age in milliseconds (2 bytes) and,
//	                 behind its length (1 byte), the report
//
// In 4 and 5 a name stands behind its length, 1 byte.
//
// Unknown kinds, of later releases, are ignored.
const (
	kindLoad         = 1
	kindRegistration = 2
	kindLeaving      = 3
	kindQuestion     = 4
	kindReports      = 5

	// stateVersion begins the full comparison: a JSON list of registrations.
	stateVersion = 1

	// maxStateBytes bounds what is read from another node at once.
	maxStateBytes = 16 << 20
)

// encodeLoad makes a message of kind load. A NodeID fits one byte of length,
// because the facts do not encode otherwise.
func encodeLoad(node string, load fleet.Load) []byte {
	b := make([]byte, 0, 2+len(node)+fleet.MaxLoadBytes)
	b = append(b, kindLoad, byte(len(node)))
	b = append(b, node...)
	return append(b, load.Encode()...)
}

// decodeLoad reads what follows the kind.
func decodeLoad(b []byte) (node string, load fleet.Load, err error) {
	node, report, err := cutName(b)
	if err != nil {
		return "", fleet.Load{}, err
	}
	load, err = fleet.DecodeLoad(report)
	return node, load, err
}

func encodeRegistration(r registration) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode a registration: %w", err)
	}
	return append([]byte{kindRegistration}, body...), nil
}

// decodeRegistration reads what follows the kind.
func decodeRegistration(b []byte) (registration, error) {
	var r registration
	if err := json.Unmarshal(b, &r); err != nil {
		return registration{}, fmt.Errorf("registration: %w", err)
	}
	return r, nil
}

// decodeState reads what registry.state made.
func decodeState(b []byte) ([]registration, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) > maxStateBytes {
		return nil, fmt.Errorf("service registry of %d bytes: %w", len(b), fleet.ErrTooLarge)
	}
	if b[0] != stateVersion {
		return nil, fmt.Errorf("service registry of version %d, this release knows %d: %w", b[0], stateVersion, fleet.ErrInvalid)
	}
	var all []registration
	if err := json.Unmarshal(b[1:], &all); err != nil {
		return nil, fmt.Errorf("service registry: %w", err)
	}
	return all, nil
}

func compareKeys(a, b fleet.ServiceKey) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.IP, b.IP), cmp.Compare(a.Port, b.Port))
}
