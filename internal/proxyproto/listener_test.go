// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package proxyproto_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster/internal/memnet"
	"muster/internal/proxyproto"
)

// front is a listener behind a balancer, and what came of its connections.
type front struct {
	t       *testing.T
	net     *memnet.Network
	closes  func()
	running sync.WaitGroup

	mu       sync.Mutex
	accepted []net.Conn
	refused  []string
}

const (
	frontIP, balancerIP, strangerIP = "10.0.0.1", "10.0.3.1", "10.9.9.9"
	frontAddr                       = frontIP + ":6751"
)

// newFront starts one that trusts the balancer. It runs in a bubble.
func newFront(t *testing.T, closeLocal bool) *front {
	f := &front{t: t, net: memnet.New()}
	inner, err := f.net.Host(frontIP).Listen("tcp", frontAddr)
	if err != nil {
		t.Fatal(err)
	}
	l := proxyproto.Listen(inner, proxyproto.Options{
		Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.3.0/24")}, CloseLocal: closeLocal,
		Refused: func(_ net.Addr, err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.refused = append(f.refused, err.Error())
		},
	})
	f.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.accepted = append(f.accepted, conn)
			f.mu.Unlock()
		}
	})
	f.closes = sync.OnceFunc(func() {
		_ = l.Close()
		f.running.Wait()
		for _, c := range f.accepted {
			_ = c.Close()
		}
	})
	t.Cleanup(f.closes)
	return f
}

// dial connects and says something.
func (f *front) dial(from string, first []byte) net.Conn {
	f.t.Helper()
	conn, err := f.net.Host(from).DialContext(f.t.Context(), "tcp", frontAddr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write(first); err != nil {
		f.t.Fatal(err)
	}
	synctest.Wait()
	return conn
}

// peers are the hosts behind what was accepted since the last call.
func (f *front) peers() (hosts []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.accepted {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		hosts = append(hosts, host)
	}
	return hosts
}

func isClosed(conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := conn.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

func bubble(t *testing.T, closeLocal bool, test func(t *testing.T, f *front)) {
	synctest.Test(t, func(t *testing.T) { test(t, newFront(t, closeLocal)) })
}

func TestClientIsWhoTheBalancerSays(t *testing.T) {
	bubble(t, true, func(t *testing.T, f *front) {
		far := f.dial(balancerIP, append(from("203.0.113.9:40000"), "hello"...))
		f.dial(balancerIP, from("[2001:db8::9]:40001"))
		if got := strings.Join(f.peers(), " "); got != "203.0.113.9 2001:db8::9" {
			t.Fatalf("accepted %q", got)
		}
		near := f.accepted[0]
		said := make([]byte, 5)
		if _, err := io.ReadFull(near, said); err != nil || string(said) != "hello" {
			t.Errorf("%q, %v", said, err)
		}
		<-time.After(time.Hour) // the header's deadline is not the connection's
		if _, err := far.Write([]byte("later")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(near, said); err != nil || string(said) != "later" {
			t.Errorf("%q, %v", said, err)
		}
		if addr, ok := near.RemoteAddr().(*net.TCPAddr); !ok || addr.Port != 40000 {
			t.Errorf("the address is %v, a %T", near.RemoteAddr(), near.RemoteAddr())
		}
	})
}

// Who is no balancer is who he is, and his header is what he says, no more.
func TestStrangerCannotClaimAnAddress(t *testing.T) {
	bubble(t, true, func(t *testing.T, f *front) {
		header := from("203.0.113.9:40000")
		f.dial(strangerIP, header)
		f.dial(strangerIP, nil)
		if got := strings.Join(f.peers(), " "); got != strangerIP+" "+strangerIP {
			t.Fatalf("accepted %q", got)
		}
		said := make([]byte, len(header))
		if _, err := io.ReadFull(f.accepted[0], said); err != nil || string(said) != string(header) {
			t.Errorf("%q, %v", said, err)
		}
	})
}

func TestBalancerWithoutAGoodHeaderIsRefused(t *testing.T) {
	bubble(t, true, func(t *testing.T, f *front) {
		for first, why := range map[string]string{
			"\x16\x03\x01\x02\x00":                               "no PROXY protocol header",
			"PROXY TCP4 203.0.113.9 198.51.100.1 40000 6751\r\n": "version 1",
			"GET /readyz HTTP/1.1\r\n\r\n":                       "no PROXY protocol header",
		} {
			f.refused = nil
			if conn := f.dial(balancerIP, []byte(first)); !isClosed(conn) {
				t.Errorf("after %q it is open", first)
			}
			if len(f.refused) != 1 || !strings.Contains(f.refused[0], why) {
				t.Errorf("after %q: %q", first, f.refused)
			}
		}
		if len(f.accepted) > 0 {
			t.Errorf("accepted from %v", f.peers())
		}
	})
}

// A slow header holds nobody else up, and is not waited for beyond its time.
func TestSlowHeader(t *testing.T) {
	bubble(t, true, func(t *testing.T, f *front) {
		header := from("203.0.113.9:40000")
		slow := f.dial(balancerIP, header[:20])
		silent := f.dial(balancerIP, nil)
		f.dial(balancerIP, from("203.0.113.10:40000"))
		if got := f.peers(); len(got) != 1 || got[0] != "203.0.113.10" {
			t.Fatalf("behind a slow header, accepted %q", got)
		}
		<-time.After(4 * time.Second)
		if _, err := slow.Write(header[20:]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := f.peers(); len(got) != 2 || got[1] != "203.0.113.9" {
			t.Errorf("after a whole header, accepted %q", got)
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		if len(f.refused) != 1 || !strings.Contains(f.refused[0], "within 5s") || !isClosed(silent) {
			t.Errorf("the silent one: %q", f.refused)
		}
	})
}

// A balancer that only looks whether we live leaves no trace, and is answered
// where there is something to answer.
func TestHealthCheck(t *testing.T) {
	for _, closes := range []bool{true, false} {
		bubble(t, closes, func(t *testing.T, f *front) {
			check := f.dial(balancerIP, raw(0x20, 0))
			if got := f.peers(); closes != isClosed(check) || !closes && (len(got) != 1 || got[0] != balancerIP) {
				t.Errorf("closes %t: accepted %q", closes, got)
			}
			knock, err := f.net.Host(balancerIP).DialContext(t.Context(), "tcp", frontAddr)
			if err != nil {
				t.Fatal(err)
			}
			_ = knock.Close()
			synctest.Wait()
			if len(f.refused) > 0 {
				t.Errorf("closes %t: refused %q", closes, f.refused)
			}
		})
	}
}

// More than may wait stay in the queue, and come in when others have gone.
func TestMoreThanMayWait(t *testing.T) {
	bubble(t, true, func(t *testing.T, f *front) {
		for range 600 {
			f.dial(balancerIP, nil)
		}
		f.dial(balancerIP, from("203.0.113.9:40000"))
		if got := f.peers(); len(got) > 0 {
			t.Fatalf("accepted %q", got)
		}
		<-time.After(6 * time.Second)
		synctest.Wait()
		if got := f.peers(); len(got) != 1 || got[0] != "203.0.113.9" || len(f.refused) != 512 {
			t.Errorf("accepted %q, %d refused", got, len(f.refused))
		}
	})
}

// Close ends what waits for its header, and leaves nothing running (the bubble
// would not end).
func TestCloseEndsWaiting(t *testing.T) {
	bubble(t, true, func(t *testing.T, f *front) {
		half := f.dial(balancerIP, from("203.0.113.9:40000")[:20])
		began := time.Now()
		f.closes()
		if passed := time.Since(began); passed > 0 || !isClosed(half) || len(f.refused) > 0 {
			t.Errorf("closed after %s, refused %q", passed, f.refused)
		}
	})
}

// A listener that nobody accepted from closes, too.
func TestCloseWithoutAccept(t *testing.T) {
	inner, err := memnet.New().Host(frontIP).Listen("tcp", frontAddr)
	if err != nil {
		t.Fatal(err)
	}
	l := proxyproto.Listen(inner, proxyproto.Options{})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the second Close: %v", err)
	}
}
