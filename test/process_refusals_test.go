// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"muster/test/process"
)

// refused starts a node that must not start, and returns its last line.
func refused(t *testing.T, n *process.Node) string {
	t.Helper()
	n.StartOnly()
	if code := n.WaitExit(); code != 1 && code != 2 {
		t.Fatalf("exit code %d, want 1 or 2\n%s", code, n.Log.String())
	}
	lines := strings.Split(strings.TrimSpace(n.Log.String()), "\n")
	return lines[len(lines)-1]
}

// TestProcessRefusals starts nodes that cannot work: each says in one line what
// to do, exits with 1 (2 for the command line), and leaves the directory alone.
func TestProcessRefusals(t *testing.T) {
	n := process.New(t)
	n.Start()
	state := filepath.Join(n.Dir, "state")

	t.Run("a directory in use", func(t *testing.T) {
		other := process.New(t)
		other.Set("--data-dir", n.Dir)
		if line := refused(t, other); !strings.Contains(line, "in use by process") {
			t.Error(line)
		}
	})
	t.Run("a port in use", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		for _, flag := range []string{"--agent-addr", "--sd-addr", "--http-addr", "--https-addr", "--gossip-addr"} {
			other := process.New(t)
			other.Set(flag, taken.Addr().String())
			line := refused(t, other)
			if !strings.Contains(line, flag) || !strings.Contains(line, "address already in use: stop the process") {
				t.Error(line)
			}
			if _, err := os.Stat(other.Dir); !os.IsNotExist(err) {
				t.Errorf("%s: the directory was made all the same: %v", flag, err)
			}
		}
	})
	for _, flags := range [][]string{
		{"--agent-cert=/nowhere", "--agent-key=/nowhere"},
		{"--http-tls-cert=/nowhere", "--http-tls-key=/nowhere"},
		{"--agent-client-ca=/nowhere"},
		{"--cluster-secret=short"},
		{"--cluster-secret-file=/nowhere"},
		{"--kafka-sasl=plain", "--kafka-user=u", "--kafka-password-file=/nowhere", "--kafka=127.0.0.1:1"},
	} {
		t.Run(flags[0], func(t *testing.T) {
			other := process.New(t, flags...)
			name, _, _ := strings.Cut(flags[0], "=")
			if line := refused(t, other); !strings.Contains(line, strings.TrimSuffix(name, "-sasl")) && !strings.Contains(line, "--cluster-secret") {
				t.Error(line)
			}
			if _, err := os.Stat(other.Dir); !os.IsNotExist(err) {
				t.Errorf("the directory was made all the same: %v", err)
			}
		})
	}
	n.Stop()
	t.Run("another node's directory", func(t *testing.T) {
		other := process.New(t)
		other.Set("--data-dir", n.Dir)
		other.Set("--node-id", "node-b")
		if line := refused(t, other); !strings.Contains(line, "node-a") {
			t.Error(line)
		}
	})
	t.Run("another secret", func(t *testing.T) {
		other := process.New(t, "--cluster-secret", "not the one it was founded with")
		other.Set("--data-dir", n.Dir)
		if line := refused(t, other); !strings.Contains(line, "start with the secret") {
			t.Error(line)
		}
		if lines := strings.Count(strings.TrimSpace(other.Log.String()), "\n") + 1; lines != 1 {
			t.Errorf("%d lines, want one:\n%s", lines, other.Log.String())
		}
	})
	t.Run("a newer version's directory", func(t *testing.T) {
		file := filepath.Join(state, "node.json")
		old, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		newer := strings.Replace(string(old), `"format":1`, `"format":99`, 1)
		if newer == string(old) {
			newer = strings.Replace(string(old), `"format": 1`, `"format": 99`, 1)
		}
		if newer == string(old) {
			t.Fatalf("no format in %s", old)
		}
		if err := os.WriteFile(file, []byte(newer), 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.WriteFile(file, old, 0o600) }()
		other := process.New(t)
		other.Set("--data-dir", n.Dir)
		if line := refused(t, other); !strings.Contains(line, "newer version") {
			t.Error(line)
		}
	})
	t.Run("the directory still starts", func(t *testing.T) {
		n.Start()
	})
}

// TestProcessConfigFile reads the settings from a file, the environment and
// flags, in this order of weight, and refuses unknown keys.
func TestProcessConfigFile(t *testing.T) {
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "muster.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	t.Run("unknown key", func(t *testing.T) {
		n := process.New(t, "--config", write("agent-adr: :1\n"))
		if line := refused(t, n); !strings.Contains(line, `unknown key "agent-adr"`) {
			t.Error(line)
		}
	})
	t.Run("weight", func(t *testing.T) {
		t.Setenv("MUSTER_AGENT_LIMIT", "77")
		n := process.New(t, "--config", write("agent-limit: 55\nzone: from-file\n"))
		n.Start()
		var status struct{ Agents struct{ Limit int } }
		n.Call("GET", "/v1/status", n.Login(), "", &status)
		if status.Agents.Limit != 77 {
			t.Errorf("limit %d, want 77 of the environment", status.Agents.Limit)
		}
		var nodes struct{ Items []struct{ Zone string } }
		n.Call("GET", "/v1/nodes", n.Login(), "", &nodes)
		if len(nodes.Items) != 1 || nodes.Items[0].Zone != "from-file" {
			t.Errorf("nodes %+v, want the zone of the file", nodes.Items)
		}
	})
	for _, flag := range []string{"--join=nowhere", "--bootstrap-expect=0", "--bootstrap-expect=-3", "--kafka=nowhere", "--kafka-sasl=plain", "--bind=x"} {
		t.Run(flag, func(t *testing.T) {
			name, _, _ := strings.Cut(flag, "=")
			n := process.New(t, flag)
			refused(t, n)
			if said := n.Log.String(); !strings.Contains(said, "muster: "+name) { // all that is wrong has a line
				t.Error(said)
			}
		})
	}
}
