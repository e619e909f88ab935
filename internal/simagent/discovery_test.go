// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/simagent"
)

// TestLookup: one question of the exact form, at each connect.
func TestLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.center("10.1.0.1", simagent.ServerName, nil)
		asked := w.sd(sdHost, lists("10.1.0.1"))
		w.start(w.options())
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]string{"GET /registry/detail?name=hids_svr_grpc&count=10"}, asked.requests()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestAddressesInOrder: a refusing address is passed at once, each silent one
// costs 15 s, the first that works is kept.
func TestAddressesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.center("10.1.0.5", simagent.ServerName, nil)
		second := w.center("10.1.0.1", simagent.ServerName, nil)
		for _, silent := range []string{"10.1.0.3", "10.1.0.4"} {
			w.net.Host(silent)
			w.net.Cut(silent)
		}
		w.net.Host("10.1.0.2") // nobody listens
		w.sd(sdHost, lists("10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.1"))
		start := time.Now()
		f := w.start(w.options())
		time.Sleep(40 * time.Second)
		synctest.Wait()
		opened := first.streams()
		if len(opened) != 1 || len(second.streams()) != 0 {
			t.Fatalf("%d streams at the first good address, %d at the second", len(opened), len(second.streams()))
		}
		if took := opened[0].Sub(start); took != 30*time.Second {
			t.Errorf("connected after %v, want 30s", took)
		}
		if n := f.Summary().Network; n.Dials != 4 || n.DialFailures != 3 {
			t.Errorf("network: %+v", n)
		}
	})
}

// TestAnswersOfSD: what makes a look-up good or bad, and the addresses that are
// tried then.
func TestAnswersOfSD(t *testing.T) {
	good := `{"data":[{"ip":"10.1.0.1","port":6751,"weight":0}]}`
	redirect := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/registry") {
			http.Redirect(w, r, "/moved?"+r.URL.RawQuery, http.StatusFound)
			return
		}
		says(http.StatusOK, good)(w, r)
	}
	tests := map[string]struct {
		handler http.HandlerFunc
		mode    string // net_mode of the second heartbeat
	}{
		"good":                 {says(http.StatusOK, good), "sd"},
		"status is ignored":    {says(http.StatusInternalServerError, good), "sd"},
		"redirect is followed": {redirect, "sd"},
		"ip is a number":       {says(http.StatusOK, strings.Replace(good, `"10.1.0.1"`, `1`, 1)), "private"},
		"port is a string":     {says(http.StatusOK, strings.Replace(good, `6751`, `"6751"`, 1)), "private"},
		"port is no integer":   {says(http.StatusOK, strings.Replace(good, `6751`, `6751.5`, 1)), "private"},
		"data is empty":        {says(http.StatusOK, `{"data":[]}`), "private"},
		"data is missing":      {says(http.StatusOK, `{"code":0}`), "private"},
		"no JSON":              {says(http.StatusOK, `<html>`), "private"},
		"addresses are dead":   {lists("10.1.0.77"), "private"},
		"SD is away":           {nil, "private"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c := w.center("10.1.0.1", simagent.ServerName, nil)
				if tt.handler != nil {
					w.sd(sdHost, tt.handler)
				}
				opts := w.options()
				opts.Addrs = []string{"10.1.0.1:6751"}
				w.start(opts)
				time.Sleep(65 * time.Second)
				synctest.Wait()
				beats := c.records(1000)
				if len(beats) != 2 {
					t.Fatalf("%d heartbeats", len(beats))
				}
				if mode := fields(t, beats[1])["net_mode"]; mode != tt.mode {
					t.Errorf("net_mode %q, want %q", mode, tt.mode)
				}
			})
		})
	}
}

// TestPublicAddressIsLast: after SD and the private address.
func TestPublicAddressIsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.center("10.1.0.2", simagent.ServerName, nil)
		opts := w.options()
		opts.Addrs = []string{"10.1.0.1:6751", "10.1.0.2:6751"}
		w.start(opts)
		time.Sleep(65 * time.Second)
		synctest.Wait()
		beats := c.records(1000)
		if len(beats) != 2 || fields(t, beats[1])["net_mode"] != "public" {
			t.Fatalf("%d heartbeats, want two, the second with net_mode public", len(beats))
		}
	})
}

func TestSDInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.center("10.1.0.1", simagent.ServerName, nil)
		empty := w.sd("10.8.0.2", says(http.StatusOK, `{"data":[]}`))
		good := w.sd(sdHost, lists("10.1.0.1"))
		unasked := w.sd("10.8.0.3", lists("10.1.0.1"))
		opts := w.options()
		opts.SD = []string{"http://10.8.0.2:8088", sdURL, "http://10.8.0.3:8088"}
		f := w.start(opts)
		time.Sleep(time.Second)
		synctest.Wait()
		if e, g, u := len(empty.all()), len(good.all()), len(unasked.all()); e != 1 || g != 1 || u != 0 {
			t.Errorf("asked %d, %d, %d times", e, g, u)
		}
		if s := f.Summary(); s.Agents.Connected != 1 || s.Network.SDLookups != 2 || s.Network.SDFailures != 1 {
			t.Errorf("summary:\n%v", s)
		}
	})
}

// TestSDAtRandom: with that option, agents spread over all of them.
func TestSDAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.center("10.1.0.1", simagent.ServerName, nil)
		one, two := w.sd("10.8.0.2", lists("10.1.0.1")), w.sd(sdHost, lists("10.1.0.1"))
		opts := w.options()
		opts.Agents, opts.RandomSD = 40, true
		opts.SD = []string{"http://10.8.0.2:8088", sdURL}
		w.start(opts)
		time.Sleep(time.Second)
		synctest.Wait()
		if a, b := len(one.all()), len(two.all()); a+b != 40 || a == 0 || b == 0 {
			t.Errorf("asked %d and %d times", a, b)
		}
	})
}

// TestServerName: the certificate must be for elkeid.com and of the agent's CA,
// whatever the address.
func TestServerName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stranger := newWorld(t)
		stranger.net = w.net
		stranger.roots = w.roots
		other := w.center("10.1.0.1", "muster.example", nil)
		forged := stranger.center("10.1.0.2", simagent.ServerName, nil)
		right := w.center("10.1.0.3", simagent.ServerName, nil)
		w.sd(sdHost, lists("10.1.0.1", "10.1.0.2", "10.1.0.3"))
		w.start(w.options())
		time.Sleep(time.Minute)
		synctest.Wait()
		if o, f, r := len(other.streams()), len(forged.streams()), len(right.streams()); o != 0 || f != 0 || r != 1 {
			t.Errorf("streams: %d at another name, %d at another CA, %d at the right one", o, f, r)
		}
	})
}

// TestSeventhFailureEndsTheAgent: six waits of 5 s, then it exits.
func TestSeventhFailureEndsTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		asked := w.sd(sdHost, says(http.StatusOK, `{"data":[]}`))
		start := time.Now()
		f := w.start(w.options())
		err := f.wait()
		if err == nil || !strings.Contains(err.Error(), "lists no server") {
			t.Errorf("Run = %v, want why no server was found", err)
		}
		times := asked.all()
		if len(times) != 7 || time.Since(start) != 30*time.Second {
			t.Fatalf("%d look-ups in %v, want 7 in 30s", len(times), time.Since(start))
		}
		for i, at := range times {
			if want := time.Duration(i) * 5 * time.Second; at.Sub(start) != want {
				t.Errorf("look-up %d after %v, want %v", i+1, at.Sub(start), want)
			}
		}
		if s := f.Summary(); s.Agents.Exits != 1 || s.Agents.Restarts != 0 {
			t.Errorf("summary:\n%v", s)
		}
	})
}

// TestSystemdRestartsWithoutPlugins: 45 s after the exit, until there is a config.
func TestSystemdRestartsWithoutPlugins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		opts := w.options()
		opts.Systemd = true
		opts.Plugins = []simagent.Plugin{{Name: "collector", Version: "1"}}
		f := w.start(opts)
		id := f.IDs()[0]
		time.Sleep(29 * time.Second)
		if len(f.PluginsOf(id)) != 1 {
			t.Error("the plugin is gone before the exit")
		}
		time.Sleep(2 * time.Second) // it has exited at 30 s
		if plugins := f.PluginsOf(id); len(plugins) != 0 {
			t.Errorf("plugins %v after the exit", plugins)
		}
		c := w.center("10.1.0.1", simagent.ServerName, nil)
		w.sd(sdHost, lists("10.1.0.1"))
		time.Sleep(43 * time.Second)
		synctest.Wait()
		if len(c.streams()) != 0 {
			t.Error("back before 45 s")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(c.streams()) != 1 {
			t.Error("not back after 45 s")
		}
		if plugins := f.PluginsOf(id); len(plugins) != 0 {
			t.Errorf("plugins %v without a config", plugins)
		}
		if beats := c.records(1000); len(beats) != 1 || fields(t, beats[0])["read_speed"] != "+Inf" {
			t.Error("the new process did not begin with a first heartbeat")
		}
	})
}
