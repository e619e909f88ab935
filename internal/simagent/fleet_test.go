// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/agentpb"
	"muster/internal/simagent"
)

// TestCompressionOnTheWire: snappy unless another is chosen, uploads too.
func TestCompressionOnTheWire(t *testing.T) {
	for chosen, want := range map[string]string{"": "snappy", "gzip": "gzip", "zstd": "zstd", "identity": ""} {
		synctest.Test(t, func(t *testing.T) {
			u := &taken{}
			s := newWorld(t).commanded(func(o *simagent.Options) { o.Compression = chosen })
			s.c.upload = u.take
			s.tell(task(1050, simagent.Product, `{"path":"/a","buf_size":20000}`))
			time.Sleep(2 * time.Second)
			synctest.Wait()
			s.c.mu.Lock()
			defer s.c.mu.Unlock()
			if diff := cmp.Diff([]string{"/grpc.Transfer/Transfer " + want, "/grpc.FileExt/Upload " + want}, s.c.encodings); diff != "" {
				t.Error(diff)
			}
			if out := s.Summary().Network.BytesSent; (out < simagent.SyntheticFileBytes) != (want != "") {
				t.Errorf("%d bytes sent", out)
			}
		})
	}
}

// TestFinishIsBounded: a server that never ends the stream costs 30 s.
func TestFinishIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.center("10.1.0.1", simagent.ServerName, &center{serve: func(_ int, s agentpb.Transfer_TransferServer) error {
			<-s.Context().Done()
			return nil
		}})
		w.sd(sdHost, lists("10.1.0.1"))
		opts := w.options()
		opts.Load.Records = 10
		start := time.Now()
		f := w.start(opts)
		if err := f.wait(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 30*time.Second+100*time.Millisecond {
			t.Errorf("took %v, want 30.1s", took)
		}
		if s := f.Summary().Agents; s.Finished != 1 || s.Unclean != 1 {
			t.Errorf("agents: %+v", s)
		}
	})
}

// TestStopSendsWhatIsHeld: also within a second when the server hangs.
func TestStopSendsWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newWorld(t).commanded(func(o *simagent.Options) { o.Load.Rate = 1000 })
		time.Sleep(50 * time.Millisecond) // between two ticks
		s.cancel()
		if err := s.wait(); err != nil {
			t.Fatal(err)
		}
		got := s.Summary()
		if n := len(s.c.records(59)); int64(n) != got.Records.Sent || n != 1050 || got.Agents.Unclean != 0 {
			t.Errorf("%d records came; summary:\n%v", n, got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.center("10.1.0.1", simagent.ServerName, &center{serve: func(_ int, s agentpb.Transfer_TransferServer) error {
			<-s.Context().Done() // reads nothing: flow control stops the agent
			return nil
		}})
		w.sd(sdHost, lists("10.1.0.1"))
		opts := w.options()
		opts.Load.Rate, opts.Compression = 20_000, "identity"
		f := w.start(opts)
		time.Sleep(10 * time.Second)
		if made, sent := f.Summary().Records.Made, f.Summary().Records.Sent; sent > made/10 {
			t.Errorf("%d of %d sent although the server reads nothing", sent, made)
		}
		before := time.Now()
		f.cancel()
		if err := f.wait(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(before); took > 2*time.Second {
			t.Errorf("took %v to stop", took)
		}
	})
}

// TestSlowServerFillsTheBuffer: while Send waits, records beyond 2,048 are lost
// and counted; sent numbers have no gaps.
func TestSlowServerFillsTheBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := &center{}
		c.serve = func(n int, s agentpb.Transfer_TransferServer) error {
			time.Sleep(10 * time.Second)
			return c.readAll(n, s)
		}
		w.center("10.1.0.1", simagent.ServerName, c)
		w.sd(sdHost, lists("10.1.0.1"))
		opts := w.options()
		opts.Compression = "identity"
		opts.Load.Rate, opts.Load.Duration = 2000, 12*time.Second
		f := w.start(opts)
		if err := f.wait(); err != nil {
			t.Fatal(err)
		}
		r := f.Summary().Records
		if r.Made != 24_000 || r.Dropped < 10_000 || r.Made != r.Sent+r.Dropped {
			t.Errorf("records: %+v", r)
		}
		tally := simagent.NewTally("")
		for _, record := range c.records(59) {
			tally.Add("a", record.GetBody())
		}
		if got, want := tally.Total(), (simagent.Counts{Received: uint64(r.Sent)}); got != want {
			t.Errorf("tally %+v, want %+v", got, want)
		}
		if sent := f.SentBy(f.IDs()[0]); sent != uint64(r.Sent) {
			t.Errorf("SentBy %d, Sent %d", sent, r.Sent)
		}
	})
}

// TestBrokenStreamLosesWhatWasUnderWay: as with a stock agent; it is not sent
// again, and the reader sees the gap.
func TestBrokenStreamLosesWhatWasUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.center("10.1.0.1", simagent.ServerName, nil)
		w.center("10.1.0.2", simagent.ServerName, nil)
		w.sd(sdHost, lists("10.1.0.1", "10.1.0.2"))
		opts := w.options()
		opts.Load.Rate, opts.Load.Records = 1000, 20_000
		var logged bytes.Buffer
		opts.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		f := w.start(opts)
		time.Sleep(3*time.Second + 50*time.Millisecond)
		w.net.Kill("10.1.0.1")
		if err := f.wait(); err != nil {
			t.Fatal(err)
		}
		s := f.Summary()
		if s.Records.Made != 20_000 || s.Agents.Finished != 1 || s.Network.Reconnects < 1 || len(c.records(59)) != 3000 {
			t.Errorf("%d records before the kill; summary:\n%v", len(c.records(59)), s)
		}
		if n := strings.Count(logged.String(), `msg="stream ended"`); n != 1 {
			t.Errorf("the lost stream was logged %d times:\n%s", n, &logged)
		}
	})
}

func TestDurationAndRamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.center("10.1.0.1", simagent.ServerName, nil)
		w.sd(sdHost, lists("10.1.0.1"))
		opts := w.options()
		opts.Agents = 10
		opts.Load = simagent.Load{Rate: 10, Duration: 20 * time.Second, Ramp: 10 * time.Second}
		start := time.Now()
		f := w.start(opts)
		if err := f.wait(); err != nil {
			t.Fatal(err)
		}
		for i, at := range c.streams() {
			if want := time.Duration(i) * time.Second; at.Sub(start) != want {
				t.Errorf("stream %d opened after %v, want %v", i, at.Sub(start), want)
			}
		}
		if s := f.Summary(); s.Records.Sent != 10*200 || s.Agents.Finished != 10 {
			t.Errorf("summary:\n%v", s)
		}
	})
}

// TestDurationEndsWithoutAServer: what cannot be sent does not keep Run.
func TestDurationEndsWithoutAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		opts := w.options()
		opts.Systemd = true
		opts.Load = simagent.Load{Rate: 10, Duration: 20 * time.Second}
		start := time.Now()
		if err := w.start(opts).wait(); err == nil {
			t.Error("no error although no agent ever had a stream")
		}
		if took := time.Since(start); took != 50*time.Second {
			t.Errorf("took %v, want 50s", took)
		}
	})
}

func TestIdentities(t *testing.T) {
	w := newWorld(t)
	opts := w.options()
	opts.Agents = 300
	ids := func(seed uint64) []string {
		opts.Seed = seed
		f, err := simagent.New(opts)
		if err != nil {
			t.Fatal(err)
		}
		return f.IDs()
	}
	one, again, two := ids(1), ids(1), ids(2)
	if diff := cmp.Diff(one, again); diff != "" {
		t.Errorf("the same seed gave other agents: %s", diff)
	}
	uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for _, id := range append(one, two...) {
		if seen[id] || !uuid.MatchString(id) {
			t.Errorf("ID %q came twice or is no UUID", id)
		}
		seen[id] = true
	}
}

func TestLoadTLS(t *testing.T) {
	w := newWorld(t)
	pair := w.certificate("")
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certFile := write("agent.crt", "CERTIFICATE", pair.Certificate[0])
	keyFile := write("agent.key", "PRIVATE KEY", key)
	caFile := write("ca.crt", "CERTIFICATE", w.ca.Raw)
	conf, err := simagent.LoadTLS(certFile, keyFile, caFile)
	if err != nil {
		t.Fatal(err)
	}
	if len(conf.Certificates) != 1 || !conf.RootCAs.Equal(w.roots) {
		t.Error("the certificate or the CA is another one")
	}
	for name, files := range map[string][3]string{
		"none.crt": {filepath.Join(dir, "none.crt"), keyFile, caFile},
		"none.ca":  {certFile, keyFile, filepath.Join(dir, "none.ca")},
		keyFile:    {certFile, keyFile, keyFile},
	} {
		if _, err := simagent.LoadTLS(files[0], files[1], files[2]); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v does not name %s", err, name)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := simagent.Options{Agents: 1, Addrs: []string{"a:1"}, TLS: &tls.Config{MinVersion: tls.VersionTLS12}, Logger: slog.New(slog.DiscardHandler)}
	if _, err := simagent.New(good); err != nil {
		t.Fatal(err)
	}
	for want, alter := range map[string]func(*simagent.Options){
		"Agents":       func(o *simagent.Options) { o.Agents = 0 },
		"SD and Addrs": func(o *simagent.Options) { o.Addrs = nil },
		"TLS":          func(o *simagent.Options) { o.TLS = nil },
		"Logger":       func(o *simagent.Options) { o.Logger = nil },
		"Compression":  func(o *simagent.Options) { o.Compression = "lz4" },
		"Load":         func(o *simagent.Options) { o.Load.Rate = -1 },
		"SD \"":        func(o *simagent.Options) { o.SD = []string{"localhost:8088"} },
		"Addrs":        func(o *simagent.Options) { o.Addrs = []string{"localhost"} },
	} {
		opts := good
		alter(&opts)
		if _, err := simagent.New(opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v does not name it", want, err)
		}
	}
}

func TestSummaryForPeopleAndPrograms(t *testing.T) {
	s := simagent.Summary{
		Agents:  simagent.AgentSummary{Total: 20, Connected: 19},
		Records: simagent.RecordSummary{Sent: 1234},
		Network: simagent.NetworkSummary{BytesSent: 5 << 20, BytesReceived: 12},
	}
	text := s.String()
	for _, part := range []string{"20: 19 connected", "1234 sent", "5.0 MiB out, 12 B in"} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
	encoded, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back simagent.Summary
	if err := json.Unmarshal(encoded, &back); err != nil || back != s || !strings.Contains(string(encoded), `"sd_lookups":0`) {
		t.Errorf("JSON %s, %v", encoded, err)
	}
}
