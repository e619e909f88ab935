// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"muster/fleet"
	"muster/internal/agentpb"
)

const testTime = 1_700_000_000

// transcodeSlow is what transcoding means: unmarshal, build, marshal.
func transcodeSlow(raw []byte, tags []string) ([][]byte, error) {
	in := new(agentpb.RawData)
	if err := proto.Unmarshal(raw, in); err != nil {
		return nil, err
	}
	var out [][]byte
	for _, r := range in.GetRecords() {
		b, err := proto.Marshal(&agentpb.MQData{
			DataType: r.GetDataType(), AgentTime: r.GetTimestamp(), Body: r.GetBody(),
			AgentId:      in.GetAgentId(),
			IntranetIpv4: strings.Join(in.GetIntranetIpv4(), ","), ExtranetIpv4: strings.Join(in.GetExtranetIpv4(), ","),
			IntranetIpv6: strings.Join(in.GetIntranetIpv6(), ","), ExtranetIpv6: strings.Join(in.GetExtranetIpv6(), ","),
			Hostname: in.GetHostname(), Version: in.GetVersion(), Product: in.GetProduct(),
			SvrTime: testTime, Tag: strings.Join(tags, ","),
		})
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// afresh parses a message of an agent of which nothing is known.
func (m *message) afresh(raw []byte) error {
	m.reset()
	return m.parse(raw, nil)
}

// checkTranscode compares the fast path with the slow one, which gets its texts
// repaired. What a session knows from the message before must change nothing.
func checkTranscode(t *testing.T, before, raw []byte) {
	t.Helper()
	prev := new(message)
	var known *origin
	if err := prev.afresh(before); err == nil {
		known = prev.origin(prev.identity)
	}
	m := new(message)
	if err := m.parse(raw, known); m.known != nil {
		fresh := new(message)
		if e := fresh.afresh(raw); e != nil || err != nil || !bytes.Equal(fresh.agentID, prev.agentID) || !cmp.Equal(fresh.who(), prev.who()) {
			t.Fatalf("%x is known, but is %+v and %v, not %+v; %v", raw, fresh.who(), e, prev.who(), err)
		}
	}
	for _, known := range []*origin{nil, known} {
		checkAgainstSlow(t, raw, known)
	}
}

func checkAgainstSlow(t *testing.T, raw []byte, known *origin) {
	t.Helper()
	tags := []string{"a", "b"}
	want, wantErr := transcodeSlow(repairRawData(raw), tags)
	m := new(message)
	err := m.parse(raw, known)
	if errors.Is(err, errIdentity) || errors.Is(err, errTooManyRecs) {
		t.Skip("over a limit of ours")
	}
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("fast path: %v, slow path: %v", err, wantErr)
	}
	if err != nil {
		return
	}
	if err := m.stamp(testTime, encodeTags(tags)); err != nil {
		t.Skip("over a limit of ours")
	}
	if len(m.records) != len(want) {
		t.Fatalf("fast path: %d records, slow path: %d", len(m.records), len(want))
	}
	for i, r := range m.records {
		got, expected := new(agentpb.MQData), new(agentpb.MQData)
		if err := proto.Unmarshal(slices.Concat(r, m.suffix), got); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		if err := proto.Unmarshal(want[i], expected); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(expected, got, protocmp.Transform()); diff != "" {
			t.Fatalf("record %d (-slow +fast): %s", i, diff)
		}
	}
}

// oddMessages are encodings that protobuf accepts and a hurried reader gets wrong.
func oddMessages() map[string][]byte {
	bytesField := func(b []byte, num protowire.Number, v string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
	}
	varint := func(b []byte, num protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
	}
	rec := func(r []byte) []byte {
		return bytesField(bytesField(nil, 1, string(r)), 2, "agent")
	}
	group := protowire.AppendTag(varint(protowire.AppendTag(nil, 20, protowire.StartGroupType), 1, 1), 20, protowire.EndGroupType)
	return map[string][]byte{
		"empty":                 nil,
		"no records":            bytesField(nil, 2, "agent"),
		"empty record":          rec(nil),
		"plain":                 rec(bytesField(varint(varint(nil, 1, 59), 2, 77), 3, "body")),
		"fields turned round":   rec(varint(varint(bytesField(nil, 3, "body"), 2, 77), 1, 59)),
		"last scalar wins":      rec(bytesField(varint(bytesField(varint(nil, 1, 1), 3, "x"), 1, 2), 3, "y")),
		"type wider than int32": rec(varint(nil, 1, 1<<40|59)),
		"negative type":         rec(varint(nil, 1, 1<<64-1)),
		"long varint":           rec([]byte{0x08, 0xbb, 0x80, 0x80, 0x00}),
		"long tag":              rec([]byte{0x88, 0x00, 0x3b}),
		"another agent":         rec(bytesField(varint(nil, 1, 59), 4, "someone else")),
		"a tag of its own":      rec(bytesField(varint(nil, 1, 59), 15, "vip")),
		"unknown varint":        rec(varint(nil, 99, 5)),
		"type as bytes":         rec(bytesField(nil, 1, "59")),
		"body as varint":        rec(varint(nil, 3, 1)),
		"group in record":       rec(group),
		"group in message":      append(slices.Clone(group), rec(nil)...),
		"unclosed group":        protowire.AppendTag(nil, 20, protowire.StartGroupType),
		"closing group only":    protowire.AppendTag(nil, 20, protowire.EndGroupType),
		"field number 0":        {0x02, 0x00},
		"field number 2^29":     protowire.AppendVarint(nil, (1<<29)<<3),
		"identity after":        bytesField(bytesField(bytesField(nil, 1, "\x08\x01"), 7, "first"), 7, "last"),
		"identity twice":        bytesField(bytesField(bytesField(nil, 2, "one"), 1, ""), 2, "two"),
		"lists with commas":     bytesField(bytesField(bytesField(nil, 3, "a,b"), 3, ""), 1, ""),
		"one empty address":     bytesField(bytesField(nil, 6, ""), 1, ""),
		"identity as varint":    varint(bytesField(nil, 1, ""), 7, 1),
		"host not UTF-8":        bytesField(bytesField(nil, 7, "\xff"), 1, ""),
		"runs not UTF-8":        bytesField(bytesField(nil, 8, "a\xff\xfeb\xc3 \uFFFD\x80"), 1, ""),
		"address not UTF-8":     bytesField(bytesField(bytesField(nil, 5, "::1"), 5, "\xed\xa0\x80"), 1, ""),
		"agent ID not UTF-8":    bytesField(bytesField(nil, 1, ""), 2, "a\xff"),
		"text in unknown field": bytesField(bytesField(nil, 1, ""), 10, "\xff"),
		"body not UTF-8":        rec(bytesField(nil, 3, "\xff\xfe")),
		"cut off":               {0x0a, 0x05, 0x08},
		"varint without end":    {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
	}
}

func TestFastPathIsSlowPath(t *testing.T) {
	for name, raw := range oddMessages() {
		t.Run(name, func(t *testing.T) {
			for _, before := range oddMessages() {
				checkTranscode(t, before, raw)
			}
		})
	}
}

func FuzzTranscode(f *testing.F) {
	for _, raw := range oddMessages() {
		f.Add(raw, raw)
		f.Add(raw, append(oddMessages()["plain"], raw...))
	}
	f.Fuzz(checkTranscode)
}

// TestKnownDescription says of which messages the description need not be read
// again: those that end in the same one, behind all records.
func TestKnownDescription(t *testing.T) {
	text := func(b []byte, num protowire.Number, v string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
	}
	rec := text(nil, 1, "\x08\x3b")
	host := text(text(nil, 2, "agent"), 7, "host")
	for name, c := range map[string]struct {
		before, raw []byte
		known       bool
	}{
		"the same":             {slices.Concat(rec, host), slices.Concat(rec, rec, host), true},
		"without records":      {slices.Concat(rec, host), host, true},
		"another host":         {slices.Concat(rec, host), slices.Concat(rec, text(nil, 2, "agent"), text(nil, 7, "tsoh")), false},
		"more at its end":      {slices.Concat(rec, host), slices.Concat(rec, host, text(nil, 7, "last")), false},
		"more before it":       {slices.Concat(rec, host), slices.Concat(rec, text(nil, 3, "10.0.0.1"), host), false},
		"on both sides":        {slices.Concat(rec, host), slices.Concat(text(nil, 3, "10.0.0.1"), rec, host), false},
		"unknown before":       {slices.Concat(rec, host), slices.Concat(text(nil, 99, "?"), rec, host), false},
		"unknown in it":        {slices.Concat(rec, host, text(nil, 99, "?")), slices.Concat(rec, host, text(nil, 99, "?")), true},
		"before the records":   {slices.Concat(host, rec), slices.Concat(host, rec), false},
		"in the records":       {slices.Concat(rec, host), text(text(nil, 2, "a"), 1, string(host)), false},
		"repaired, to count":   {slices.Concat(rec, host, text(nil, 8, "\xff")), slices.Concat(rec, host, text(nil, 8, "\xff")), false},
		"too long to remember": {slices.Concat(rec, host, text(nil, 9, strings.Repeat("p", 600))), slices.Concat(rec, host, text(nil, 9, strings.Repeat("p", 600))), false},
	} {
		prev, m := new(message), new(message)
		if err := prev.afresh(c.before); err != nil {
			t.Fatal(err)
		}
		if err := m.parse(c.raw, prev.origin(prev.identity)); err != nil || (m.known != nil) != c.known {
			t.Errorf("%s: known %v, %v; want %v", name, m.known != nil, err, c.known)
		}
		checkTranscode(t, c.before, c.raw)
	}
}

func TestForeignFieldsAreRemoved(t *testing.T) {
	odd := oddMessages()
	for name, normalised := range map[string]int{
		"plain": 0, "last scalar wins": 0, "empty record": 0,
		"another agent": 1, "a tag of its own": 1, "type as bytes": 1, "group in record": 1,
	} {
		m := new(message)
		if err := m.afresh(odd[name]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m.normalised != normalised {
			t.Errorf("%s: %d normalised, want %d", name, m.normalised, normalised)
		}
	}
}

func TestLimitsOfOneMessage(t *testing.T) {
	marshal := func(in *agentpb.RawData) []byte {
		b, err := proto.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	m := new(message)
	if err := m.afresh(marshal(&agentpb.RawData{AgentId: "a", Hostname: strings.Repeat("h", maxIdentityBytes)})); !errors.Is(err, errIdentity) {
		t.Errorf("long host name: %v, want %v", err, errIdentity)
	}
	many := marshal(&agentpb.RawData{AgentId: "a", Hostname: strings.Repeat("h", maxIdentityBytes/2)})
	for range 2 * maxStampedBytes / maxIdentityBytes {
		many = append(many, 0x0a, 0x00)
	}
	if err := m.afresh(many); err != nil {
		t.Fatal(err)
	}
	if err := m.stamp(testTime, nil); !errors.Is(err, errTooManyRecs) {
		t.Errorf("much to repeat: %v, want %v", err, errTooManyRecs)
	}
	empty := bytes.Repeat([]byte{0x0a, 0x00}, maxRecords)
	if err := m.afresh(empty); err != nil || len(m.records) != maxRecords {
		t.Errorf("%d empty records: %v", len(m.records), err)
	}
	if err := m.afresh(append(empty, 0x0a, 0x00)); !errors.Is(err, errTooManyRecs) {
		t.Errorf("one record more: %v, want %v", err, errTooManyRecs)
	}
	if m.reset(); cap(m.records) > keepRecords {
		t.Errorf("a list of %d records is kept", cap(m.records))
	}
}

func TestMessageIsReusable(t *testing.T) {
	odd := oddMessages()
	m := new(message)
	for _, name := range []string{"lists with commas", "plain", "cut off", "another agent", "identity after"} {
		_ = m.afresh(odd[name])
	}
	fresh := new(message)
	if err := errors.Join(m.afresh(odd["plain"]), fresh.afresh(odd["plain"])); err != nil {
		t.Fatal(err)
	}
	if string(m.identity) != string(fresh.identity) || len(m.records) != 1 || m.normalised != 0 || len(m.notable) != 0 {
		t.Errorf("something of an earlier message is left: %+v", m)
	}
}

// checkItem compares the map parser with protobuf's.
func checkItem(t *testing.T, body []byte) {
	t.Helper()
	want := new(agentpb.Item)
	wantErr := proto.Unmarshal(repairItem(body), want)
	got, err := itemFields(body)
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("got %v, protobuf says %v", err, wantErr)
	}
	if err != nil {
		return
	}
	if want.Fields == nil {
		want.Fields = map[string]string{}
	}
	if diff := cmp.Diff(want.GetFields(), got); diff != "" {
		t.Fatalf("(-protobuf +ours): %s", diff)
	}
}

func oddItems() map[string][]byte {
	entry := func(b []byte, v string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), v)
	}
	return map[string][]byte{
		"empty":            nil,
		"one":              entry(nil, "\x0a\x01k\x12\x01v"),
		"last one wins":    entry(entry(nil, "\x0a\x01k\x12\x01v"), "\x0a\x01k\x12\x01w"),
		"value first":      entry(nil, "\x12\x01v\x0a\x01k"),
		"key twice":        entry(nil, "\x0a\x01k\x0a\x01l\x12\x01v"),
		"no value":         entry(nil, "\x0a\x01k"),
		"nothing in entry": entry(nil, ""),
		"key as varint":    entry(nil, "\x08\x01\x12\x01v"),
		"unknown in entry": entry(nil, "\x0a\x01k\x12\x01v\x18\x05"),
		"unknown in item":  append(entry(nil, "\x0a\x01k\x12\x01v"), 0x10, 0x05),
		"not UTF-8":        entry(nil, "\x0a\x01\xff"),
		"value not UTF-8":  entry(nil, "\x0a\x01k\x12\x04a\xff\xfeb"),
		"both repaired":    entry(entry(nil, "\x0a\x01\xff\x12\x01v"), "\x0a\x02\xfe\xff\x12\x01w"),
		"broken entry":     entry(entry(nil, "\x0a\x01k\x12\x09v"), "\x0a\x01l\x12\x01w"),
		"cut off":          {0x0a, 0x09, 0x0a},
	}
}

func TestItemIsProtobufsMap(t *testing.T) {
	for name, body := range oddItems() {
		t.Run(name, func(t *testing.T) { checkItem(t, body) })
	}
}

func FuzzItem(f *testing.F) {
	for _, body := range oddItems() {
		f.Add(body)
	}
	f.Fuzz(checkItem)
}

func TestACommandThatSaysNothingIsNotEncoded(t *testing.T) {
	for _, c := range []fleet.AgentCommand{{}, {Ctrl: 1}, {Config: []fleet.ConfigItem{}}} {
		if b, err := encodeCommand(c); err == nil {
			t.Errorf("%+v was encoded as %x", c, b)
		}
	}
}

// typical is a message like those of a busy agent: 100 records of 600 bytes.
func typical(tb testing.TB) []byte {
	tb.Helper()
	in := &agentpb.RawData{
		AgentId: "80ab2f3b-0000-0000-0000-000000000000", Hostname: "web-042.example.com",
		Version: "1.9.1.58", Product: "elkeid-agent", IntranetIpv4: []string{"10.1.2.3"},
	}
	body := []byte(strings.Repeat("b", 588))
	for range 100 {
		in.Records = append(in.Records, &agentpb.Record{DataType: 59, Timestamp: testTime, Body: body})
	}
	raw, err := proto.Marshal(in)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

func BenchmarkTranscode(b *testing.B) {
	raw, tags := typical(b), encodeTags([]string{"db", "eu"})
	b.Run("fast", func(b *testing.B) {
		m := new(message)
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			if err := errors.Join(m.afresh(raw), m.stamp(testTime, tags)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("slow", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := transcodeSlow(raw, []string{"db", "eu"}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
