// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"muster/fleet"
	"muster/internal/agentpb"
)

// series are the names and labels of everything that is exposed, without values.
func (w *world) series() []string {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	all := make(map[string]bool)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			all[fmt.Sprintf("%s{%s} %d buckets", f.GetName(), strings.Join(labels, ","), len(m.GetHistogram().GetBucket()))] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

func (w *world) histogram(name string) (count uint64, sum float64) {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "muster_agentrpc_"+name {
			h := f.GetMetric()[0].GetHistogram()
			return h.GetSampleCount(), h.GetSampleSum()
		}
	}
	w.t.Fatalf("no metric %s", name)
	return 0, 0
}

// seriesOf is what a server exposes after some agents have said odd things.
func seriesOf(t *testing.T, agents int, odd func(i int) fleet.DataType) (series []string) {
	inBubble(t, func(_ *testing.T, w *world) {
		for i := range agents {
			a := w.open(fmt.Sprintf("agent-%d-%d", agents, i), w.dialFrom(fmt.Sprintf("10.0.%d.%d", agents, i+1), nil))
			a.beat()
			a.send(record(odd(i), "k", "v"), record(fleet.DataTypeTaskResult, "token", fmt.Sprint("t", i), "status", "succeed"),
				&agentpb.Record{DataType: int32(fleet.DataTypeHeartbeat), Body: []byte{0xff}})
			w.open(fmt.Sprintf("no agent's\nID %d", i), w.dialFrom(fmt.Sprintf("10.1.%d.%d", agents, i+1), nil)).beat() // refused
			if i%3 == 0 {                                                                                               // some leave with a fault
				a.id = "another"
				a.send()
			}
		}
		pass(2 * time.Second)
		series = w.series()
	})
	return series
}

func TestSeriesDoNotGrowWithAgents(t *testing.T) {
	few := seriesOf(t, 3, func(int) fleet.DataType { return fleet.DataTypeExecve })
	extremes := []fleet.DataType{math.MinInt32, -1, 0, 1, 42, 5050, 9999, math.MaxInt32}
	many := seriesOf(t, 30, func(i int) fleet.DataType { return extremes[i%len(extremes)] + fleet.DataType(i/len(extremes)) })
	if diff := cmp.Diff(few, many); diff != "" {
		t.Errorf("series of 3 agents and of 30 (-3 +30):\n%s", diff)
	}
	if len(few) < 50 {
		t.Errorf("only %d series: nothing was looked at", len(few))
	}
}

func TestRecordsAreCountedByType(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a", nil)
		beat, execve := heartbeat("state", "running"), record(fleet.DataTypeExecve, "exe", "/bin/sh")
		strange := &agentpb.Record{DataType: -7, Body: []byte("b")}
		a.send(beat, execve, execve, strange, &agentpb.Record{DataType: int32(fleet.DataTypeScanPath)})
		a.send()
		want := map[string]float64{"heartbeat": 1, "execve": 2, "other": 2, "task_result": 0, "baseline_status": 0}
		var records, bytes float64
		for name, n := range want {
			if got := w.metric("type_records_total", "type", name); got != n {
				t.Errorf("%v records of type %s counted, not %v", got, name, n)
			}
			records += w.metric("type_records_total", "type", name)
			bytes += w.metric("type_bytes_total", "type", name)
		}
		if all := w.metric("records_total"); records != all || all != 5 {
			t.Errorf("records: %v of all types, %v in all, not 5", records, all)
		}
		if got, size := w.metric("type_bytes_total", "type", "execve"), float64(2*proto.Size(execve)); got != size {
			t.Errorf("execve: %v bytes counted, not %v", got, size)
		}
		if n, sum := w.histogram("message_bytes"); n != 2 || sum != w.metric("received_bytes_total") || sum <= bytes {
			t.Errorf("%d messages of %v bytes; received %v, of records %v", n, sum, w.metric("received_bytes_total"), bytes)
		}
		if n, _ := w.histogram("handshake_seconds"); n != 1 {
			t.Errorf("%d handshakes counted, not 1", n)
		}
		if n := w.metric("opened_sessions_total"); n != 1 {
			t.Errorf("%v sessions opened, not 1", n)
		}
	})
}

func TestBackPressureIsMeasured(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.open("a", nil)
		full := make(chan struct{})
		w.log.block(func(ctx context.Context, _ string) error {
			select {
			case <-full:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		a.send(record(fleet.DataTypeExecve))
		if n := w.metric("appending_messages"); n != 1 {
			t.Errorf("%v messages wait for the log, not 1", n)
		}
		pass(3 * time.Second)
		close(full)
		w.eventually("the message is taken", time.Second, func() bool { return w.metric("appending_messages") == 0 })
		if n, sum := w.histogram("append_seconds"); n != 1 || math.Abs(sum-3) > 0.1 {
			t.Errorf("%d messages waited %v s, not one 3 s", n, sum)
		}
	})
}
