// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package peerrpc_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"muster/peerrpc"
	"muster/peerrpc/peerrpcpb"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s has changed: nodes of two releases would not understand each other\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// frames are one of each kind.
func frames() map[string]*peerrpcpb.Frame {
	fill := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	ask := func(a *peerrpcpb.Ask) *peerrpcpb.Frame {
		a.Proof = fill(3)
		return &peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Ask{Ask: a}}
	}
	answer := func(a *peerrpcpb.Answer) *peerrpcpb.Frame {
		a.Proof = fill(4)
		return &peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Answer{Answer: a}}
	}
	return map[string]*peerrpcpb.Frame{
		"1 hello":     {Kind: &peerrpcpb.Frame_Hello{Hello: &peerrpcpb.Hello{Nonce: fill(1)}}},
		"2 challenge": {Kind: &peerrpcpb.Frame_Challenge{Challenge: &peerrpcpb.Challenge{Nonce: fill(2)}}},
		"3 ask enrol": ask(&peerrpcpb.Ask{What: &peerrpcpb.Ask_Enrol{Enrol: &peerrpcpb.Enrol{
			ServerId: "b~0a1b2c3d", PublicKey: []byte("public key"),
		}}}),
		"3 ask promise": ask(&peerrpcpb.Ask{What: &peerrpcpb.Ask_Promise{Promise: &peerrpcpb.Promise{
			ServerId: "a~0a1b2c3d", Expect: 3, Asked: "b~0a1b2c3d",
		}}}),
		"4 answer certificate": answer(&peerrpcpb.Answer{What: &peerrpcpb.Answer_Certificate{Certificate: &peerrpcpb.Certificate{
			ClusterId: "c1", Ca: []byte("ca"), Node: []byte("node"),
		}}}),
		"4 answer granted": answer(&peerrpcpb.Answer{What: &peerrpcpb.Answer_Promised{Promised: &peerrpcpb.Promised{Granted: true}}}),
		"4 answer denied":  answer(&peerrpcpb.Answer{What: &peerrpcpb.Answer_Promised{Promised: &peerrpcpb.Promised{Why: "promised"}}}),
		"4 answer refused": answer(&peerrpcpb.Answer{What: &peerrpcpb.Answer_Refused{Refused: &peerrpcpb.Refused{
			Reason: peerrpcpb.Reason_REASON_NOT_NOW, Why: "starting",
		}}}),
	}
}

func TestFramesNeverChange(t *testing.T) {
	var lines []string
	for name, f := range frames() {
		var b bytes.Buffer
		if err := peerrpc.WriteFrame(&b, f); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%s: %x\n", name, b.Bytes()))
		got, err := peerrpc.ReadFrame(&b)
		if err != nil || !proto.Equal(got, f) || b.Len() != 0 {
			t.Errorf("%s: read %v, %v, %d bytes left", name, got, err, b.Len())
		}
	}
	ask, answer := peerrpc.Proofs([]byte("a key"), []byte("exported"), []byte("asking"), []byte("answering"))
	lines = append(lines, fmt.Sprintf("proof asking: %x\n", ask), fmt.Sprintf("proof answering: %x\n", answer))
	slices.Sort(lines)
	golden(t, "frames.golden", strings.Join(lines, ""))
}

// Every part of a conversation changes both proofs, and they differ.
func TestProofsDependOnEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := func(name string) []byte { return rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, name) }
		parts := [4][]byte{part("key"), part("exported"), part("asking"), part("answering")}
		ask, answer := peerrpc.Proofs(parts[0], parts[1], parts[2], parts[3])
		if bytes.Equal(ask, answer) {
			t.Fatal("both roles prove the same")
		}
		parts[rapid.IntRange(0, 3).Draw(t, "part")][rapid.IntRange(0, 31).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		ask2, answer2 := peerrpc.Proofs(parts[0], parts[1], parts[2], parts[3])
		if bytes.Equal(ask, ask2) || bytes.Equal(answer, answer2) {
			t.Fatal("a changed bit left a proof as it was")
		}
	})
}

func TestFrameTooLong(t *testing.T) {
	long := &peerrpcpb.Frame{Kind: &peerrpcpb.Frame_Hello{Hello: &peerrpcpb.Hello{Nonce: make([]byte, 17<<10)}}}
	if err := peerrpc.WriteFrame(&bytes.Buffer{}, long); err == nil {
		t.Error("sent")
	}
	if _, err := peerrpc.ReadFrame(strings.NewReader("\xff\xff" + strings.Repeat("a", 65535))); err == nil {
		t.Error("taken")
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, frame := range frames() {
		var b bytes.Buffer
		if err := peerrpc.WriteFrame(&b, frame); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()/2])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		frame, err := peerrpc.ReadFrame(r)
		if err != nil {
			return
		}
		if took, want := len(data)-r.Len(), 2+int(data[0])<<8+int(data[1]); took != want {
			t.Fatalf("took %d bytes of a frame of %d", took, want)
		}
		var b bytes.Buffer
		if err := peerrpc.WriteFrame(&b, frame); err != nil {
			t.Fatalf("%s is read but not written: %v", hex.EncodeToString(data), err)
		}
		if again, err := peerrpc.ReadFrame(&b); err != nil || !proto.Equal(again, frame) {
			t.Fatalf("read %v, again %v, %v", frame, again, err)
		}
	})
}

func TestThrottleIsBounded(t *testing.T) {
	host := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	if n := peerrpc.Throttled(3*peerrpc.MaxThrottled, host, time.Now()); n > peerrpc.MaxThrottled {
		t.Errorf("%d hosts are remembered", n)
	}
}
