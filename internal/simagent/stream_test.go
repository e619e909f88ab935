// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/agentpb"
	"muster/internal/simagent"
)

// heartbeatFields are the contract's, in its order.
const heartbeatFields = `kernel_version arch platform platform_family platform_version state state_detail idc region net_mode
rx_speed tx_speed cpu rss read_speed write_speed pid nfd start_time tx_tps rx_tps du ngr nproc total_mem load_1 load_5
load_15 running_procs total_procs host_serial host_id host_model host_vendor dns gateway cpu_name boot_time cpu_usage mem_usage`

const pluginFields = `name pversion cpu rss read_speed write_speed pid nfd start_time du rx_tps tx_tps rx_speed tx_speed`

func names(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func sorted(list string) []string {
	keys := strings.Fields(list)
	slices.Sort(keys)
	return keys
}

// TestFirstMessage: 100 ms after the stream's opening, awaiting nothing, with the
// first heartbeat in front.
func TestFirstMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.center("10.1.0.1", simagent.ServerName, nil)
		w.sd(sdHost, lists("10.1.0.1"))
		opts := w.options()
		opts.Plugins = []simagent.Plugin{{Name: "driver", Version: "1"}}
		f := w.start(opts)
		time.Sleep(time.Second)
		synctest.Wait()
		got := c.got()
		if len(got) != 1 {
			t.Fatalf("%d messages in the first second, want 1", len(got))
		}
		if wait := got[0].at.Sub(c.streams()[0]); wait != 100*time.Millisecond {
			t.Errorf("first message after %v", wait)
		}
		raw := got[0].raw
		if len(raw.GetRecords()) != 1 || raw.GetRecords()[0].GetDataType() != 1000 {
			t.Fatalf("the first message holds %v, want one heartbeat", got[0].types())
		}
		beat := fields(t, raw.GetRecords()[0])
		if diff := cmp.Diff(sorted(heartbeatFields), names(beat)); diff != "" || len(beat) != 40 {
			t.Errorf("%d fields: %s", len(beat), diff)
		}
		for _, key := range []string{"read_speed", "write_speed"} {
			if beat[key] != "+Inf" {
				t.Errorf("%s is %q", key, beat[key])
			}
		}
		if beat["net_mode"] != "unknown" || beat["state"] != "running" {
			t.Errorf("net_mode %q, state %q", beat["net_mode"], beat["state"])
		}
		if raw.GetAgentId() != f.IDs()[0] || raw.GetProduct() != "elkeid-agent" || !strings.HasPrefix(raw.GetVersion(), "1.9.1.") ||
			raw.GetHostname() == "" || len(raw.GetIntranetIpv4()) != 1 || !strings.HasPrefix(raw.GetIntranetIpv4()[0], "10.") {
			t.Errorf("identity: %v %v %v %v %v", raw.GetAgentId(), raw.GetProduct(), raw.GetVersion(), raw.GetHostname(), raw.GetIntranetIpv4())
		}
	})
}

// TestHeartbeatEachMinute: of the agent and of each plugin.
func TestHeartbeatEachMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.center("10.1.0.1", simagent.ServerName, nil)
		w.sd(sdHost, lists("10.1.0.1"))
		opts := w.options()
		opts.Plugins = []simagent.Plugin{{Name: "driver", Version: "1.0"}, {Name: "collector", Version: "2.0"}}
		w.start(opts)
		start := time.Now()
		time.Sleep(5*time.Minute + time.Second)
		synctest.Wait()
		beats, plugins := c.records(1000), c.records(1001)
		if len(beats) != 6 || len(plugins) != 10 {
			t.Fatalf("%d heartbeats and %d of plugins in 5 minutes, want 6 and 10", len(beats), len(plugins))
		}
		for i, beat := range beats {
			if at := beat.GetTimestamp() - start.Unix(); at != int64(i)*60 {
				t.Errorf("heartbeat %d after %d s", i, at)
			}
			got := fields(t, beat)
			if diff := cmp.Diff(sorted(heartbeatFields), names(got)); diff != "" {
				t.Error(diff)
			}
			if i > 0 && (got["read_speed"] == "+Inf" || got["net_mode"] != "sd") {
				t.Errorf("heartbeat %d: read_speed %s, net_mode %s", i, got["read_speed"], got["net_mode"])
			}
		}
		seen := map[string]int{}
		for _, plugin := range plugins {
			got := fields(t, plugin)
			if diff := cmp.Diff(sorted(pluginFields), names(got)); diff != "" {
				t.Error(diff)
			}
			seen[got["name"]+" "+got["pversion"]]++
		}
		if diff := cmp.Diff(map[string]int{"driver 1.0": 5, "collector 2.0": 5}, seen); diff != "" {
			t.Error(diff)
		}
	})
}

// TestBatches: each message is sent at a multiple of 100 ms from the opening and
// holds all that came up in between.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.center("10.1.0.1", simagent.ServerName, nil)
		w.sd(sdHost, lists("10.1.0.1"))
		opts := w.options()
		opts.Load.Rate = 200
		w.start(opts)
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		got, opened := c.got(), c.streams()[0]
		if len(got) != 100 {
			t.Errorf("%d messages in 10 s, want 100", len(got))
		}
		total := 0
		for i, m := range got {
			if at := m.at.Sub(opened); at != time.Duration(i+1)*100*time.Millisecond {
				t.Errorf("message %d after %v", i, at)
			}
			if n := m.types()[59]; n < 19 || n > 21 {
				t.Errorf("message %d has %d records", i, n)
			}
			total += m.types()[59]
		}
		if total < 1999 || total > 2000 {
			t.Errorf("%d records in 10 s, want 2000", total)
		}
	})
}

// TestDataRecord: some twenty fields and 600 bytes, as a process event has.
func TestDataRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.center("10.1.0.1", simagent.ServerName, nil)
		w.sd(sdHost, lists("10.1.0.1"))
		opts := w.options()
		opts.Load.Records, opts.Load.Batch = 100, 30
		f := w.start(opts)
		if err := f.wait(); err != nil {
			t.Fatal(err)
		}
		for i, r := range c.records(59) {
			got := fields(t, r)
			if len(got) < 18 || len(got) > 30 || len(r.GetBody()) < 450 || len(r.GetBody()) > 750 {
				t.Fatalf("record %d: %d fields, %d bytes", i, len(got), len(r.GetBody()))
			}
			if got["sim_run"] != f.RunID() || got["sim_seq"] == "" {
				t.Fatalf("record %d: %v", i, got)
			}
		}
		for i, m := range c.got() {
			if len(m.raw.GetRecords()) > 30 {
				t.Errorf("message %d has %d records, Batch is 30", i, len(m.raw.GetRecords()))
			}
		}
	})
}

// TestBufferDrops: without a stream 2,048 records wait, what comes up then is
// dropped and counted, and the agent's own heartbeat finds its place.
func TestBufferDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		opts := w.options()
		opts.Load.Rate = 100
		opts.SD, opts.Addrs = nil, []string{"10.1.0.1:6751"}
		w.net.Host("10.1.0.1")
		w.net.Cut("10.1.0.1")
		f := w.start(opts)
		time.Sleep(62 * time.Second) // the heartbeat of 60 s meets a full buffer
		c := w.center("10.1.0.1", simagent.ServerName, nil)
		w.net.Heal()
		time.Sleep(8 * time.Second)
		f.cancel()
		if err := f.wait(); err != nil {
			t.Fatal(err)
		}
		got := c.got()
		if n := len(got[0].raw.GetRecords()); n != 2048 {
			t.Fatalf("the first message has %d records, want 2048", n)
		}
		if n := got[0].types()[1000]; n != 1 {
			t.Errorf("%d heartbeats in the first message: the second replaces the first record", n)
		}
		s := f.Summary().Records
		if s.Made != s.Sent+s.Dropped-1 || s.Dropped < 3000 { // the stolen place held a heartbeat
			t.Errorf("records: %+v", s)
		}
		tally := simagent.NewTally("")
		for _, r := range c.records(59) {
			tally.Add("a", r.GetBody())
		}
		if got := tally.Total(); got.Lost != 0 || got.Received != uint64(s.Sent) {
			t.Errorf("dropped records used numbers up: %+v", got)
		}
	})
}

// TestFiveReuses: after a stream's end 5 s, five times the same channel, then SD.
func TestFiveReuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.center("10.1.0.1", simagent.ServerName, &center{
			serve: func(int, agentpb.Transfer_TransferServer) error { return nil },
		})
		asked := w.sd(sdHost, lists("10.1.0.1"))
		start := time.Now()
		f := w.start(w.options())
		time.Sleep(64 * time.Second)
		synctest.Wait()
		var opened, looked []time.Duration
		for _, at := range c.streams() {
			opened = append(opened, at.Sub(start))
		}
		for _, at := range asked.all() {
			looked = append(looked, at.Sub(start))
		}
		var want []time.Duration
		for i := range 13 {
			want = append(want, time.Duration(i)*5*time.Second)
		}
		if diff := cmp.Diff(want, opened); diff != "" {
			t.Errorf("streams: %s", diff)
		}
		if diff := cmp.Diff([]time.Duration{0, 30 * time.Second, 60 * time.Second}, looked); diff != "" {
			t.Errorf("look-ups: %s", diff)
		}
		if n := f.Summary().Network; n.StreamsOpened != 13 || n.Reconnects != 12 || n.Dials != 3 {
			t.Errorf("network: %+v", n)
		}
	})
}

// TestFailedChannelAsksSDAtOnce: a channel whose server is gone is IDLE and used
// once more; that brings it to TRANSIENT_FAILURE, and SD is asked.
func TestFailedChannelAsksSDAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.center("10.1.0.1", simagent.ServerName, nil)
		second := w.center("10.1.0.2", simagent.ServerName, nil)
		asked := w.sd(sdHost, lists("10.1.0.1", "10.1.0.2"))
		w.start(w.options())
		time.Sleep(10 * time.Second)
		killed := time.Now()
		w.net.Kill("10.1.0.1")
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if len(asked.all()) != 1 {
			t.Error("SD was asked although the channel was IDLE")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(asked.all()) != 2 {
			t.Fatalf("%d look-ups, want a second one at 10 s", len(asked.all()))
		}
		if opened := second.streams(); len(opened) != 1 || opened[0].Sub(killed) != 10*time.Second {
			t.Errorf("streams at the second server: %v", opened)
		}
	})
}

// TestFailuresCountInARow: one success begins the count to seven anew.
func TestFailuresCountInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f := w.start(w.options()) // no SD: each connect fails at once
		time.Sleep(27 * time.Second)
		c := w.center("10.1.0.1", simagent.ServerName, &center{
			serve: func(int, agentpb.Transfer_TransferServer) error { return nil },
		})
		w.sd(sdHost, lists("10.1.0.1"))
		time.Sleep(4 * time.Second) // the seventh try succeeds
		w.net.Kill("10.1.0.1")
		w.net.Kill(sdHost)
		time.Sleep(30 * time.Second)
		if s := f.Summary(); s.Agents.Exits != 0 || len(c.streams()) != 1 {
			t.Fatalf("a success did not begin the count anew:\n%v", s)
		}
		time.Sleep(30 * time.Second)
		if s := f.Summary(); s.Agents.Exits != 1 {
			t.Errorf("no exit after seven more failures:\n%v", s)
		}
	})
}
