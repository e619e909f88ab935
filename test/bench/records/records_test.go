// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package records_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/s2"
	"google.golang.org/protobuf/proto"

	"muster/internal/agentpb"
	"muster/test/bench/records"
)

func unpack(t *testing.T, f records.Frame) *agentpb.RawData {
	t.Helper()
	plain, err := io.ReadAll(s2.NewReader(bytes.NewReader(f[5:])))
	if err != nil {
		t.Fatal(err)
	}
	var m agentpb.RawData
	if err := proto.Unmarshal(plain, &m); err != nil {
		t.Fatal(err)
	}
	return &m
}

func TestEventsHaveTheirSizeAndNoNumber(t *testing.T) {
	for _, count := range []int{1, 10, 100} {
		maker := records.NewPacker().NewMaker(7)
		f, err := maker.Events(count, 1_700_000_000)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d records: %d bytes, compressed %d: %.1f to 1", count, len(maker.Plain()), len(f)-5, float64(len(maker.Plain()))/float64(len(f)-5))
		m := unpack(t, f)
		if len(m.GetRecords()) != count || m.GetAgentId() != records.AgentID(7) {
			t.Fatalf("%d records of %q, want %d of %q", len(m.GetRecords()), m.GetAgentId(), count, records.AgentID(7))
		}
		for _, r := range m.GetRecords() {
			raw, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if len(raw) != records.RecordBytes {
				t.Errorf("a record of %d bytes, want %d", len(raw), records.RecordBytes)
			}
			if mark, ok := records.Find(raw); ok {
				t.Errorf("a record that was not numbered has %+v", mark)
			}
		}
	}
}

func TestNumbersGoOn(t *testing.T) {
	maker := records.NewPacker().NewMaker(7)
	var next uint64
	for _, count := range []int{3, 3, 5} {
		sent := int64(1_700_000_000_123_456_789) + int64(next)
		f, err := maker.Numbered(count, sent)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range unpack(t, f).GetRecords() {
			raw, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			want := records.Mark{Agent: 7, Number: next, Sent: sent}
			if got, ok := records.Find(raw); !ok || got != want {
				t.Errorf("mark %+v, %v, want %+v", got, ok, want)
			}
			next++
		}
	}
	if maker.Numbers() != next {
		t.Errorf("Numbers() = %d, want %d", maker.Numbers(), next)
	}
}

func TestHeartbeat(t *testing.T) {
	maker := records.NewPacker().NewMaker(7)
	f, err := maker.Heartbeat(1_700_000_000)
	if err != nil {
		t.Fatal(err)
	}
	m := unpack(t, f)
	var item agentpb.Item
	if err := proto.Unmarshal(m.GetRecords()[0].GetBody(), &item); err != nil {
		t.Fatal(err)
	}
	if got := m.GetRecords()[0].GetDataType(); got != 1000 || len(item.GetFields()) != 41 {
		t.Errorf("data type %d with %d fields, want 1000 with 41", got, len(item.GetFields()))
	}
}
