// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"muster/fleet"
	"muster/internal/agentpb"
)

// What agents send that no strict protobuf library would.

// textField appends a length-delimited field, whatever its bytes are.
func textField(b []byte, num protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), text)
}

// rawItem is an Item whose texts need not be UTF-8.
func rawItem(pairs ...string) []byte {
	var body []byte
	for i := 0; i < len(pairs); i += 2 {
		body = textField(body, 1, string(textField(textField(nil, 1, pairs[i]), 2, pairs[i+1])))
	}
	return body
}

func bodyRecord(dataType fleet.DataType, body []byte) *agentpb.Record {
	return &agentpb.Record{DataType: int32(dataType), Body: body}
}

func TestIdentityThatIsNotUTF8(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		beat, err := proto.Marshal(heartbeat("state", "running"))
		if err != nil {
			t.Fatal(err)
		}
		raw := textField(textField(nil, 1, string(beat)), 2, "a1")
		for num, text := range map[protowire.Number]string{
			3: "10.0.0.\xff", 4: "1.1.1.\xfe", 5: "::\xff", 6: "::\xfe\xff", 7: "h\xffst", 8: "1.9\x80", 9: "\xc3elkeid",
		} {
			raw = textField(raw, num, text)
		}
		a := w.open("a1", nil)
		if err := a.stream.SendMsg(raw); err != nil {
			t.Fatal(err)
		}
		w.eventually("record and report", time.Second, func() bool {
			return len(w.log.of("a1")) == 1 && len(w.store.allReports()) == 1
		})
		got := mqData(t, w.log.of("a1")[0])
		said := []string{
			got.GetIntranetIpv4(), got.GetExtranetIpv4(), got.GetIntranetIpv6(), got.GetExtranetIpv6(),
			got.GetHostname(), got.GetVersion(), got.GetProduct(),
		}
		want := []string{"10.0.0.�", "1.1.1.�", "::�", "::�", "h�st", "1.9�", "�elkeid"}
		if diff := cmp.Diff(want, said); diff != "" {
			t.Errorf("in the log (-want +got): %s", diff)
		}
		identity := fleet.Identity{
			AgentID: "a1", Hostname: "h�st", Version: "1.9�", Product: "�elkeid",
			IntranetIPv4: []string{"10.0.0.�"}, ExtranetIPv4: []string{"1.1.1.�"},
			IntranetIPv6: []string{"::�"}, ExtranetIPv6: []string{"::�"},
		}
		sess, _ := w.srv.Session("a1")
		if diff := cmp.Diff(identity, sess.Identity); diff != "" {
			t.Errorf("in memory (-want +got): %s", diff)
		}
		if diff := cmp.Diff(identity, w.store.allReports()[0].Identity); diff != "" {
			t.Errorf("in the inventory (-want +got): %s", diff)
		}
		if n := w.metric("repaired_texts_total"); n != 7 {
			t.Errorf("repaired: %v, want 7", n)
		}
		a.send(record(59)) // the stream goes on
		if n := len(w.log.of("a1")); n != 2 {
			t.Errorf("%d records, want 2", n)
		}
		a.cancel()
	})
}

func TestBodiesThatAreNotUTF8(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.store.set(func(f *fakeStore) { f.subTask = known("a1", fleet.SubTaskSent) })
		beat := rawItem("state", "running", "kernel_version", "6.1\xff", "\xfe", "odd key")
		a := w.open("a1", nil)
		a.send(bodyRecord(fleet.DataTypeHeartbeat, beat),
			bodyRecord(fleet.DataTypePluginHeartbeat, rawItem("name", "dri\xffver", "pversion", "2\xff")),
			bodyRecord(fleet.DataTypeAgentError, rawItem("name", "x", "msg", "\xff")),
			bodyRecord(fleet.DataTypePluginError, rawItem("name", "\xff", "msg", "y")),
			bodyRecord(fleet.DataTypeTaskResult, rawItem("token", "t.1", "status", "succeed", "msg", "caf\xe9")))
		w.eventually("result and report", time.Second, func() bool {
			return len(w.store.allResults()) == 1 && len(w.store.allReports()) == 1
		})
		sess, _ := w.srv.Session("a1")
		if diff := cmp.Diff(map[string]string{"state": "running", "kernel_version": "6.1�", "�": "odd key"}, sess.Heartbeat); diff != "" {
			t.Errorf("heartbeat (-want +got): %s", diff)
		}
		if diff := cmp.Diff(map[string]string{"name": "dri�ver", "pversion": "2�"}, sess.Plugins["dri�ver"].Fields); diff != "" {
			t.Errorf("plugin (-want +got): %s", diff)
		}
		report := w.store.allReports()[0]
		if report.Facts["kernel_version"] != "6.1�" || report.Plugins["dri�ver"] != "2�" {
			t.Errorf("report: %+v", report)
		}
		if r := w.store.allResults()[0]; r.Message != "caf�" || r.State != fleet.SubTaskSucceeded {
			t.Errorf("result: %+v", r)
		}
		if errs, bad := w.metric("agent_errors_total"), w.metric("undecodable_bodies_total"); errs != 2 || bad != 0 {
			t.Errorf("counted %v errors, want 2, and %v undecodable bodies, want 0", errs, bad)
		}
		if got := mqData(t, w.log.of("a1")[0]).GetBody(); string(got) != string(beat) {
			t.Errorf("forwarded %q, want the bytes that came", got)
		}
		a.cancel()
	})
}

func TestAnyHeartbeatRecordIsAHeartbeat(t *testing.T) {
	for name, body := range map[string][]byte{
		"cut off":             {0x0a, 0x7f, 0x0a},
		"broken entry":        textField(rawItem("state", "running"), 1, "\x0a\x7f"),
		"over 64 KiB":         rawItem("state", "running", "cpu_name", string(make([]byte, 64<<10))),
		"nothing":             nil,
		"field number is odd": {0x02, 0x00},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				configured(w.store, 7)
				a := w.open("a1", nil)
				a.send(bodyRecord(fleet.DataTypeHeartbeat, body))
				w.eventually("config and report", time.Second, func() bool {
					return len(a.got()) == 1 && len(w.store.allReports()) == 1
				})
				if r := w.store.allReports()[0]; r.Hostname != "host-a1" || r.Version != "1.9" || len(r.Facts) != 0 {
					t.Errorf("report %+v, want the identity and no facts", r)
				}
				pass(time.Minute)
				a.send(bodyRecord(fleet.DataTypeHeartbeat, body))
				sess, _ := w.srv.Session("a1")
				if sess.HeartbeatAt != time.Now().Unix() || len(sess.Heartbeat) != 0 {
					t.Errorf("heartbeat at %d with %v, want now and no fields", sess.HeartbeatAt, sess.Heartbeat)
				}
				want := 2.0
				if body == nil {
					want = 0
				}
				if n := w.metric("undecodable_bodies_total"); n != want {
					t.Errorf("counted %v, want %v", n, want)
				}
				if n := len(w.log.of("a1")); n != 2 {
					t.Errorf("%d records forwarded, want 2", n)
				}
				a.cancel()
			})
		})
	}
}

// The largest body that is kept is kept, and outlives one that is not.
func TestFieldsStayWhenALaterHeartbeatCannotBeRead(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		largest := rawItem("state", "running", "pad", string(make([]byte, 64<<10-31)))
		if len(largest) != 64<<10 {
			t.Fatalf("%d bytes, want 64 KiB", len(largest))
		}
		a := w.open("a1", nil)
		a.send(bodyRecord(fleet.DataTypeHeartbeat, largest))
		pass(time.Minute)
		a.send(bodyRecord(fleet.DataTypeHeartbeat, []byte{0xff}))
		sess, _ := w.srv.Session("a1")
		if sess.HeartbeatAt != time.Now().Unix() || sess.Heartbeat["state"] != "running" {
			t.Errorf("heartbeat at %d, state %q", sess.HeartbeatAt, sess.Heartbeat["state"])
		}
		pass(time.Second)
		if n := len(w.store.allReports()); n != 1 {
			t.Errorf("%d reports, want 1: nothing is new", n)
		}
		a.cancel()
	})
}

func TestOddRepliesSetTheResult(t *testing.T) {
	said := func(pairs ...string) []byte { return rawItem(append([]string{"token", "t.1"}, pairs...)...) }
	for name, c := range map[string]struct {
		body []byte
		want fleet.TaskResult
	}{
		"cut off at the end": {
			append(said("status", "succeed", "msg", "done"), 0x0a, 0x7f),
			fleet.TaskResult{Status: "succeed", State: fleet.SubTaskSucceeded, Message: "done"},
		},
		"cut off before the status": {
			append(said(), 0x0a, 0x7f),
			fleet.TaskResult{State: fleet.SubTaskFailed, Message: "the agent's reply could not be read"},
		},
		"broken entry in front": {
			append(textField(nil, 1, "\x0a\x7f"), said("status", "failed", "msg", "why")...),
			fleet.TaskResult{Status: "failed", State: fleet.SubTaskFailed, Message: "why"},
		},
		"status of another kind": {append(textField(nil, 1, "\x0a\x06status\x10\x01"), said()...), fleet.TaskResult{State: fleet.SubTaskFailed}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.store.set(func(f *fakeStore) { f.subTask = known("a1", fleet.SubTaskSent) })
				a := w.open("a1", nil)
				a.send(bodyRecord(fleet.DataTypeTaskResult, c.body))
				c.want.Token, c.want.AgentID, c.want.DataType, c.want.At = "t.1", "a1", fleet.DataTypeTaskResult, time.Now().Unix()
				if diff := cmp.Diff(c.want, w.lastResult()); diff != "" {
					t.Errorf("(-want +got): %s", diff)
				}
				a.cancel()
			})
		})
	}
}
