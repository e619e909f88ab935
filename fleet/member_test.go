// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"muster/fleet"
)

func anyLoad() *rapid.Generator[fleet.Load] {
	return rapid.Custom(func(t *rapid.T) fleet.Load {
		return fleet.Load{
			Sessions:         rapid.Uint32().Draw(t, "sessions"),
			Limit:            rapid.Uint32().Draw(t, "limit"),
			CPUPermille:      rapid.Uint16().Draw(t, "cpu"),
			MemoryPermille:   rapid.Uint16().Draw(t, "memory"),
			SpoolPermille:    rapid.Uint16().Draw(t, "spool"),
			RecordsPerSecond: rapid.Uint32().Draw(t, "records"),
			KafkaBacklog:     rapid.Uint32().Draw(t, "backlog"),
			Draining:         rapid.Bool().Draw(t, "draining"),
			Ready:            rapid.Bool().Draw(t, "ready"),
			KafkaAway:        rapid.Bool().Draw(t, "kafkaAway"),
			Leaderless:       rapid.Bool().Draw(t, "leaderless"),
			Applied:          rapid.Uint64().Draw(t, "applied"),
			Sequence:         rapid.Uint64().Draw(t, "sequence"),
			HandedOut:        rapid.Uint32().Draw(t, "handedOut"),
		}
	})
}

func TestLoadRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyLoad().Draw(t, "load")
		b := want.Encode()
		if len(b) != fleet.LoadBytes {
			t.Fatalf("%d bytes", len(b))
		}
		// What a later release appends is ignored.
		b = append(b, make([]byte, rapid.IntRange(0, fleet.MaxLoadBytes-fleet.LoadBytes).Draw(t, "more"))...)
		got, err := fleet.DecodeLoad(b)
		if err != nil || got != want {
			t.Fatalf("DecodeLoad = %+v, %v; want %+v", got, err, want)
		}
	})
}

func TestAReportWithoutHandOutsIsRead(t *testing.T) {
	b := fleet.Load{Sessions: 7, Sequence: 8, HandedOut: 9}.Encode()
	if got, err := fleet.DecodeLoad(b[:40]); err != nil || got != (fleet.Load{Sessions: 7, Sequence: 8}) {
		t.Errorf("40 bytes: %+v, %v", got, err)
	}
	if got, err := fleet.DecodeLoad(b[:39]); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("39 bytes: %+v, %v", got, err)
	}
}

// The bytes are spoken between releases: they never change.
func TestLoadBytesAreFrozen(t *testing.T) {
	load := fleet.Load{
		Sessions: 0x01020304, Limit: 0x05060708, CPUPermille: 0x0a0b, MemoryPermille: 0x0c0d, SpoolPermille: 0x0e0f,
		RecordsPerSecond: 0x11121314, KafkaBacklog: 0x15161718, Draining: true, KafkaAway: true,
		Applied: 0x2122232425262728, Sequence: 0x3132333435363738, HandedOut: 0x41424344,
	}
	const want = "0105" + "0a0b0c0d0e0f" + "0102030405060708" + "1112131415161718" + "2122232425262728" + "3132333435363738" + "41424344"
	if got := hex.EncodeToString(load.Encode()); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if b := (fleet.Load{Ready: true, Leaderless: true}).Encode(); b[1] != 0x0a {
		t.Errorf("flags = %#x", b[1])
	}
}

func FuzzDecodeLoad(f *testing.F) {
	f.Add([]byte{})
	f.Add(fleet.Load{Sessions: 7, Ready: true}.Encode())
	f.Add(bytes.Repeat([]byte{1}, 43))
	f.Fuzz(func(t *testing.T, b []byte) {
		load, err := fleet.DecodeLoad(b)
		if err != nil {
			if !errors.Is(err, fleet.ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		whole := make([]byte, fleet.LoadBytes)
		if copy(whole, b) < fleet.LoadBytes { // an older release's, and a part of what it does not have
			clear(whole[40:])
		}
		b = whole
		b[1] &= 0x0f // flags of later releases
		if !bytes.Equal(load.Encode(), b) {
			t.Fatalf("%x became %x", b, load.Encode())
		}
	})
}

func anyMember() *rapid.Generator[fleet.Member] {
	return rapid.Custom(func(t *rapid.T) fleet.Member {
		short := func(name string) string { return rapid.StringN(0, -1, 40).Draw(t, name) }
		return fleet.Member{
			NodeID:    rapid.StringN(1, -1, 64).Draw(t, "node"),
			ServerID:  short("server"),
			ClusterID: short("cluster"),
			Version:   short("version"),
			Format:    rapid.IntRange(0, 65535).Draw(t, "format"),
			Zone:      short("zone"),
			AgentAddr: short("agent"),
			HTTPAddr:  short("http"),
			HTTPSAddr: short("https"),
			SDAddr:    short("sd"),
			NodeAddr:  short("node addr"),
			Expect:    rapid.IntRange(0, 100).Draw(t, "expect"),
			Started:   time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "started"), 0).UTC(),
		}
	})
}

func TestMetaRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyMember().Draw(t, "member")
		b, err := want.EncodeMeta()
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > fleet.MaxMetaBytes {
			t.Fatalf("%d bytes", len(b))
		}
		got, err := fleet.DecodeMeta(append(b, "\x05later"...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestMetaBytesAreFrozen(t *testing.T) {
	m := fleet.Member{
		NodeID: "n", ServerID: "s", ClusterID: "c", Version: "v", Format: 0x0102, Zone: "z",
		AgentAddr: "a", HTTPAddr: "h", HTTPSAddr: "t", SDAddr: "d", NodeAddr: "p", Expect: 3, Started: time.Unix(0x65000000, 0),
	}
	b, err := m.EncodeMeta()
	if err != nil {
		t.Fatal(err)
	}
	const want = "01" + "0102" + "0000000065000000" + "016e" + "0173" + "0163" + "0176" + "017a" +
		"0161" + "0168" + "0174" + "0164" + "0170" + "0133"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestMetaOfAnOlderReleaseLeavesLaterFactsEmpty(t *testing.T) {
	b, err := fleet.Member{NodeID: "n", NodeAddr: "10.0.0.1:1"}.EncodeMeta()
	if err != nil {
		t.Fatal(err)
	}
	got, err := fleet.DecodeMeta(b[:len(b)-len("10.0.0.1:1")-2])
	if err != nil || got.NodeID != "n" || got.NodeAddr != "" || !got.Started.IsZero() {
		t.Fatalf("DecodeMeta = %+v, %v", got, err)
	}
}

func TestMetaThatDoesNotFitIsRefused(t *testing.T) {
	for name, m := range map[string]fleet.Member{
		"no name":       {},
		"one too long":  {NodeID: "n", Zone: strings.Repeat("z", 256)},
		"all too long":  {NodeID: "n", Zone: strings.Repeat("z", 255), Version: strings.Repeat("v", 255)},
		"format":        {NodeID: "n", Format: 65536},
		"format below":  {NodeID: "n", Format: -1},
		"name too long": {NodeID: strings.Repeat("n", 256)},
	} {
		var refusal *fleet.Refusal
		if b, err := m.EncodeMeta(); !errors.As(err, &refusal) || b != nil {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

func FuzzDecodeMeta(f *testing.F) {
	b, err := fleet.Member{NodeID: "n1", Zone: "z", Started: time.Unix(1, 0)}.EncodeMeta()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:5])
	f.Add(append(b[:len(b)-1], "\x0203"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := fleet.DecodeMeta(b)
		if err != nil {
			if !errors.Is(err, fleet.ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		again, err := m.EncodeMeta()
		if err != nil {
			return // too many facts of full length
		}
		if !bytes.HasPrefix(append(b, make([]byte, 10)...), again) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

func TestSilent(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		age, maxAge time.Duration
		want        bool
	}{
		{fleet.MaxLoadAge, 0, false},
		{fleet.MaxLoadAge + 1, 0, true},
		{3 * fleet.MaxLoadAge, 3 * fleet.MaxLoadAge, false},
		{3*fleet.MaxLoadAge + 1, 3 * fleet.MaxLoadAge, true},
	} {
		m := fleet.Member{NodeID: "n", Alive: true, Load: fleet.Load{Ready: true, Limit: 1}, ReportedAt: now.Add(-tt.age), MaxAge: tt.maxAge}
		if got := m.Silent(now); got != tt.want || (m.Standing(now) == fleet.StandingSilent) != tt.want {
			t.Errorf("a report of %s ago, of at most %s: silent %v, %s", tt.age, tt.maxAge, got, m.Standing(now))
		}
	}
	if m := (fleet.Member{}); !m.Silent(now) {
		t.Error("a node that has never reported is not silent")
	}
}
