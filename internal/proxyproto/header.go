// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package proxyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// How headers begin, of version 2 and of version 1.
const (
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	version1  = "PROXY"
)

// MaxHeaderBytes bounds what follows the first 16 bytes: addresses, and the
// extensions (TLVs), which are skipped. Balancers send some hundred bytes of them
// at most.
const MaxHeaderBytes = 4096

const (
	fixedBytes = 16
	ipv4Bytes  = 4 + 4 + 2 + 2
	ipv6Bytes  = 16 + 16 + 2 + 2
)

// Fault is what is wrong with a header, in words for a log.
type Fault string

// The faults that there are, beside those of the connection.
const (
	FaultVersion1 Fault = "the header is of version 1: have the balancer send version 2 (HAProxy: send-proxy-v2)"
	FaultNone     Fault = "there is no PROXY protocol header: have the balancer send one of version 2, or take its address out of --proxy-from"
	FaultTooLong  Fault = "the header is longer than 4 KiB: have the balancer send fewer extensions"
	FaultKind     Fault = "the header speaks of no TCP connection over IPv4 or IPv6"
	FaultAddress  Fault = "the header gives an address that no client can have"
	FaultFields   Fault = "the header has a version, command or length that version 2 does not know"
)

// Error implements error.
func (f Fault) Error() string { return string(f) }

// Header is what a balancer says of a connection.
type Header struct {
	// Local is a connection of the balancer itself, to see whether we live; it
	// has no Source then.
	Local bool
	// Source is the client. An IPv4 address is never written as one of IPv6.
	Source netip.AddrPort
}

// Read reads one header and not a byte of what follows it. Else it returns a Fault or an
// error of r: io.EOF if there was nothing at all. It stops at the first byte that
// no header has.
func Read(r io.Reader) (Header, error) {
	var fixed [fixedBytes]byte
	if err := readFixed(r, &fixed); err != nil {
		return Header{}, err
	}
	length := int(binary.BigEndian.Uint16(fixed[14:]))
	if length > MaxHeaderBytes {
		return Header{}, FaultTooLong
	}
	var rest [ipv6Bytes]byte
	addresses := rest[:min(length, len(rest))]
	if _, err := io.ReadFull(r, addresses); err != nil {
		return Header{}, brokenOff(err)
	}
	h, err := parse(fixed[12], fixed[13], addresses)
	if err != nil {
		return Header{}, err
	}
	if err := skip(r, length-len(addresses)); err != nil {
		return Header{}, err
	}
	return h, nil
}

// readFixed reads the first part, and gives up as soon as it is none.
func readFixed(r io.Reader, into *[fixedBytes]byte) error {
	for have := 0; have < fixedBytes; {
		n, err := r.Read(into[have:])
		have += n
		switch got := string(into[:have]); {
		case got == "", begins(got, signature):
		case len(got) < len(version1) && begins(got, version1): // it will be
		case begins(got, version1):
			return FaultVersion1
		default:
			return FaultNone
		}
		if err != nil && have < fixedBytes {
			if have == 0 {
				return fmt.Errorf("read the header: %w", err)
			}
			return brokenOff(err)
		}
	}
	return nil
}

// begins tells whether the two are the same as far as both go.
func begins(got, want string) bool {
	common := min(len(got), len(want))
	return got[:common] == want[:common]
}

// parse judges a header's version, command, family and protocol, and the bytes
// behind them, of which there are as many as the header has, but no more than two
// IPv6 addresses and ports take.
func parse(versionCommand, familyProtocol byte, b []byte) (Header, error) {
	const (
		local, proxy     = 0x20, 0x21
		tcpOver4, tcpOv6 = 0x11, 0x21
	)
	switch versionCommand {
	case local: // whatever else it says is to be ignored
		return Header{Local: true}, nil
	case proxy:
	default:
		return Header{}, FaultFields
	}
	var source netip.AddrPort
	switch {
	case familyProtocol == tcpOver4 && len(b) >= ipv4Bytes:
		source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), binary.BigEndian.Uint16(b[8:]))
	case familyProtocol == tcpOv6 && len(b) >= ipv6Bytes:
		source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), binary.BigEndian.Uint16(b[32:]))
	case familyProtocol == tcpOver4, familyProtocol == tcpOv6:
		return Header{}, FaultFields
	default:
		return Header{}, FaultKind
	}
	if ip := source.Addr(); ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return Header{}, FaultAddress
	}
	return Header{Source: source}, nil
}

// skip reads n bytes away.
func skip(r io.Reader, n int) error {
	var away [512]byte
	for n > 0 {
		got, err := r.Read(away[:min(n, len(away))])
		n -= got
		if err != nil && n > 0 {
			return brokenOff(err)
		}
	}
	return nil
}

// brokenOff is the error for a header whose begin was there.
func brokenOff(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read the rest of the header: %w", err)
}
