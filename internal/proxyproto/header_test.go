// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package proxyproto_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"sync"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"muster/internal/proxyproto"
)

// raw is a header as it goes over the wire: version and command, family and
// protocol, and what follows.
func raw(versionCommand, familyProtocol byte, rest ...[]byte) []byte {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), versionCommand, familyProtocol)
	body := bytes.Join(rest, nil)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

// from is the header of a connection over TCP.
func from(source string, extensions ...byte) []byte {
	at := netip.MustParseAddrPort(source)
	family, to := byte(0x11), netip.MustParseAddr("198.51.100.1")
	if at.Addr().Is6() {
		family, to = 0x21, netip.MustParseAddr("2001:db8::1")
	}
	ports := binary.BigEndian.AppendUint16(nil, at.Port())
	return raw(0x21, family, at.Addr().AsSlice(), to.AsSlice(), append(ports, 0x1a, 0x5f), extensions)
}

func TestRead(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("203.0.113.9:40000"), netip.MustParseAddrPort("[2001:db8::9]:40001")
	tooLong := append(raw(0x21, 0x11), make([]byte, 5000)...)
	binary.BigEndian.PutUint16(tooLong[14:], 4097)
	for name, c := range map[string]struct {
		bytes []byte
		want  proxyproto.Header
		err   error
	}{
		"IPv4":                            {from(v4.String()), proxyproto.Header{Source: v4}, nil},
		"IPv6":                            {from(v6.String()), proxyproto.Header{Source: v6}, nil},
		"IPv4 inside IPv6":                {from("[::ffff:203.0.113.9]:40000"), proxyproto.Header{Source: v4}, nil},
		"extensions":                      {from(v4.String(), make([]byte, 700)...), proxyproto.Header{Source: v4}, nil},
		"as long as it may be":            {from(v6.String(), make([]byte, 4096-36)...), proxyproto.Header{Source: v6}, nil},
		"a health check":                  {raw(0x20, 0), proxyproto.Header{Local: true}, nil},
		"a health check with addresses":   {raw(0x20, 0x11, make([]byte, 12)), proxyproto.Header{Local: true}, nil},
		"a health check and extensions":   {raw(0x20, 0xff, make([]byte, 300)), proxyproto.Header{Local: true}, nil},
		"nothing":                         {nil, proxyproto.Header{}, io.EOF},
		"version 1":                       {[]byte("PROXY TCP4 203.0.113.9 198.51.100.1 40000 6751\r\n"), proxyproto.Header{}, proxyproto.FaultVersion1},
		"version 1, the shortest":         {[]byte("PROXY UNKNOWN\r\n"), proxyproto.Header{}, proxyproto.FaultVersion1},
		"TLS":                             {[]byte("\x16\x03\x01\x02\x00\x01\x00"), proxyproto.Header{}, proxyproto.FaultNone},
		"HTTP":                            {[]byte("GET /readyz HTTP/1.1\r\n\r\n"), proxyproto.Header{}, proxyproto.FaultNone},
		"the signature, nearly":           {[]byte("\r\n\r\n\x00\r\nQUIX\n"), proxyproto.Header{}, proxyproto.FaultNone},
		"half a signature":                {[]byte("\r\n\r\n\x00"), proxyproto.Header{}, io.ErrUnexpectedEOF},
		"no addresses after all":          {from(v4.String())[:16], proxyproto.Header{}, io.ErrUnexpectedEOF},
		"half of the addresses":           {from(v4.String())[:20], proxyproto.Header{}, io.ErrUnexpectedEOF},
		"half of the extensions":          {from(v4.String(), make([]byte, 700)...)[:300], proxyproto.Header{}, io.ErrUnexpectedEOF},
		"too long":                        {tooLong, proxyproto.Header{}, proxyproto.FaultTooLong},
		"version 3":                       {raw(0x31, 0x11, make([]byte, 12)), proxyproto.Header{}, proxyproto.FaultFields},
		"an unknown command":              {raw(0x22, 0x11, make([]byte, 12)), proxyproto.Header{}, proxyproto.FaultFields},
		"IPv4, too short":                 {raw(0x21, 0x11, make([]byte, 11)), proxyproto.Header{}, proxyproto.FaultFields},
		"IPv6, too short":                 {raw(0x21, 0x21, make([]byte, 35)), proxyproto.Header{}, proxyproto.FaultFields},
		"UDP":                             {raw(0x21, 0x12, make([]byte, 12)), proxyproto.Header{}, proxyproto.FaultKind},
		"a UNIX socket":                   {raw(0x21, 0x31, make([]byte, 216)), proxyproto.Header{}, proxyproto.FaultKind},
		"a family that is not said":       {raw(0x21, 0x00), proxyproto.Header{}, proxyproto.FaultKind},
		"the unspecified address":         {from("0.0.0.0:1"), proxyproto.Header{}, proxyproto.FaultAddress},
		"the unspecified address of IPv6": {from("[::]:1"), proxyproto.Header{}, proxyproto.FaultAddress},
		"a group":                         {from("224.0.0.1:1"), proxyproto.Header{}, proxyproto.FaultAddress},
		"everybody":                       {from("255.255.255.255:1"), proxyproto.Header{}, proxyproto.FaultAddress},
	} {
		t.Run(name, func(t *testing.T) {
			const follows = "what the client says"
			whole := bytes.NewReader(append(bytes.Clone(c.bytes), follows...))
			if errors.Is(c.err, io.EOF) || errors.Is(c.err, io.ErrUnexpectedEOF) {
				whole = bytes.NewReader(c.bytes)
			}
			h, err := proxyproto.Read(whole)
			if h != c.want || !errors.Is(err, c.err) {
				t.Fatalf("%+v, %v; want %+v, %v", h, err, c.want, c.err)
			}
			if rest, _ := io.ReadAll(whole); err == nil && string(rest) != follows {
				t.Errorf("%q is left, want %q", rest, follows)
			}
			slow, err := proxyproto.Read(iotest.OneByteReader(bytes.NewReader(c.bytes)))
			if slow != c.want || !errors.Is(err, c.err) {
				t.Errorf("byte by byte: %+v, %v; want %+v, %v", slow, err, c.want, c.err)
			}
		})
	}
}

// What is no header is refused at once: nobody waits for bytes that need not come.
func TestReadRefusesEarly(t *testing.T) {
	for _, begin := range []string{"\x16", "G", "PROXY ", "PX", "\r\n\r\nX"} {
		in, out := io.Pipe()
		var balancer sync.WaitGroup
		balancer.Go(func() { _, _ = out.Write([]byte(begin)) }) // and no more
		if _, err := proxyproto.Read(in); !errors.Is(err, proxyproto.FaultNone) && !errors.Is(err, proxyproto.FaultVersion1) {
			t.Errorf("%q: %v", begin, err)
		}
		balancer.Wait()
	}
}

// A header comes out as it went in, whatever is behind it.
func TestReadIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{4, 16}).Draw(t, "bytes of the address")
		ip, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "address"))
		source := netip.AddrPortFrom(ip, rapid.Uint16().Draw(t, "port"))
		extensions := rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "extensions")
		follows := rapid.SliceOf(rapid.Byte()).Draw(t, "what follows")
		r := bytes.NewReader(append(from(source.String(), extensions...), follows...))
		h, err := proxyproto.Read(r)
		if errors.Is(err, proxyproto.FaultAddress) {
			return
		}
		if want := netip.AddrPortFrom(ip.Unmap(), source.Port()); err != nil || h.Source != want || h.Local {
			t.Fatalf("%+v, %v; want %v", h, err, want)
		}
		if rest, _ := io.ReadAll(r); !bytes.Equal(rest, follows) {
			t.Fatalf("%x is left, want %x", rest, follows)
		}
	})
}

// FuzzRead: outside bytes never panic, a header is never longer than it may be,
// and an address is given exactly for what is no connection of the balancer's own.
func FuzzRead(f *testing.F) {
	for _, b := range [][]byte{
		nil, from("203.0.113.9:40000"), from("[2001:db8::9]:40001", 3, 0, 4, 1, 2, 3, 4), raw(0x20, 0), raw(0x21, 0x31, make([]byte, 216)),
		[]byte("PROXY TCP4 203.0.113.9 198.51.100.1 40000 6751\r\n"), []byte("\x16\x03\x01"), from("203.0.113.9:40000")[:19],
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := proxyproto.Read(r)
		used := len(b) - r.Len()
		if used > 16+proxyproto.MaxHeaderBytes {
			t.Fatalf("%d bytes were read", used)
		}
		if err != nil {
			if h != (proxyproto.Header{}) {
				t.Fatalf("%+v with %v", h, err)
			}
			return
		}
		if want := 16 + int(binary.BigEndian.Uint16(b[14:])); used != want {
			t.Fatalf("%d bytes were read of a header of %d", used, want)
		}
		if h.Local == h.Source.IsValid() || h.Source.Addr().Is4In6() {
			t.Fatalf("%+v", h)
		}
		slow, err := proxyproto.Read(iotest.OneByteReader(bytes.NewReader(b)))
		if slow != h || err != nil {
			t.Fatalf("byte by byte: %+v, %v; want %+v", slow, err, h)
		}
	})
}
