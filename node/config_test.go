// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"net"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster/fleet"
)

// valid is what the command line gives without flags, on loopback.
func valid(dir string) Config {
	return Config{
		NodeID: "n1", DataDir: dir, Bind: "127.0.0.1", Profile: "lan",
		Listen:  ListenConfig{SD: []string{":0"}, HTTP: []string{":0"}, HTTPS: ":0", Node: ":0", Gossip: ":0"},
		Agents:  AgentConfig{Addr: ":0"},
		Cluster: ClusterConfig{BootstrapExpect: -1},
		Kafka:   KafkaConfig{Topic: "hids_svr", RetentionBytes: 64 << 20, Compression: "none"},
	}
}

// The command line's default is the one that the balancer has by itself.
func TestShedRateHasOneDefault(t *testing.T) {
	field, _ := reflect.TypeFor[AgentConfig]().FieldByName("ShedRate")
	if got := field.Tag.Get("default"); got != strconv.Itoa(fleet.DefaultShedRate) {
		t.Errorf("--shed-rate is %q, without it %d", got, fleet.DefaultShedRate)
	}
}

func TestConfigNamesTheFlag(t *testing.T) {
	for flag, spoil := range map[string]func(*Config){
		"--node-id":               func(c *Config) { c.NodeID = "a b" },
		"--bind":                  func(c *Config) { c.Bind = "host" },
		"--advertise":             func(c *Config) { c.Advertise = "host" },
		"--agent-advertise":       func(c *Config) { c.Agents.Advertise = "host" },
		"--sd-addr":               func(c *Config) { c.Listen.SD = []string{"8088"} },
		"--https-addr":            func(c *Config) { c.Listen.HTTPS = ":http" },
		"--agent-cert":            func(c *Config) { c.Agents.Cert = "x" },
		"--http-tls-cert":         func(c *Config) { c.Listen.HTTPKey = "x" },
		"--join":                  func(c *Config) { c.Cluster.Join = []string{"h"} },
		"--bootstrap-expect":      func(c *Config) { c.Cluster.BootstrapExpect = 0 },
		"--cluster-secret":        func(c *Config) { c.Cluster.Secret, c.Cluster.SecretFile = "x", "y" },
		"--kafka":                 func(c *Config) { c.Cluster.BootstrapExpect = 3 },
		"--recover":               func(c *Config) { c.Cluster.Recover = true },
		"--kafka-sasl":            func(c *Config) { c.Kafka.Brokers, c.Kafka.SASL = []string{"h:1"}, "gssapi" },
		"--kafka-tls":             func(c *Config) { c.Kafka.Brokers, c.Kafka.TLSCA = []string{"h:1"}, "x" },
		"--agent-proxy-protocol":  func(c *Config) { c.Proxy.Agent = true },
		"--sd-proxy-protocol":     func(c *Config) { c.Proxy.SD = true },
		"--proxy-from":            func(c *Config) { c.Proxy.From = []string{"10.0.3.1"} },
		"--kafka-retention-bytes": func(c *Config) { c.Kafka.RetentionBytes = 1 },
	} {
		c := valid(t.TempDir())
		spoil(&c)
		err := c.validate()
		if !errors.Is(err, fleet.ErrInvalid) || !strings.HasPrefix(err.Error(), flag+": ") {
			t.Errorf("%s: %v", flag, err)
		}
	}
	c := valid(t.TempDir())
	c.NodeID, c.Agents.ShedRate, c.Kafka.SASL, c.Kafka.SpoolMaxBytes = "a b", -1, "plain", 1
	c.Listen.SD, c.Listen.HTTP, c.Cluster.Join = []string{"8088"}, []string{":x"}, []string{"h"}
	if err := c.validate(); err == nil || strings.Count(err.Error(), "\n") != 7 {
		t.Errorf("eight things are wrong (--kafka must be told, too): %v", err)
	}
	c = valid(t.TempDir())
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	if c.Agents.Addr != "127.0.0.1:0" || c.Advertise != "127.0.0.1" || c.Kafka.embeddedAt("n1") != "n1" {
		t.Errorf("defaults: %+v", c)
	}
}

func TestMeter(t *testing.T) {
	var m meter
	start := time.Unix(1, 0)
	m.sample(start, 1000)
	if got := m.sample(start.Add(100*time.Millisecond), 2000); got != 0 {
		t.Errorf("rate %v after a tenth of a second, want none yet", got)
	}
	if got := m.sample(start.Add(2*time.Second), 3000); got != 1000 {
		t.Errorf("rate %v, want 1000 a second", got)
	}
	if got := m.value(); got != 1000 {
		t.Errorf("value %v", got)
	}
}

// TestAdvertise: without any hint it is an address of this machine; with a node
// to join it is the one of the route there.
func TestAdvertise(t *testing.T) {
	for _, c := range []struct {
		bound string
		join  []string
		want  string // "" is any
	}{
		{"127.0.0.3:1", nil, "127.0.0.3"},
		{"0.0.0.0:1", []string{"127.0.0.1:7946"}, "127.0.0.1"},
		{"0.0.0.0:1", nil, ""},
		{"0.0.0.0:1", []string{}, ""},
	} {
		got := advertiseFor(c.bound, c.join)
		if net.ParseIP(got) == nil || c.want != "" && got != c.want {
			t.Errorf("bound to %s, joining %v: %q, want %q", c.bound, c.join, got, c.want)
		}
	}
}
