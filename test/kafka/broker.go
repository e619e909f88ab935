// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"muster/test/process"
)

const host = "127.0.0.1"

// clusterID is 16 bytes in base64; any would do.
const clusterID = "bXVzdGVyLXRlc3RrYWZrYQ"

var listeners = []Listener{Plain, SASL, TLS, MTLS, SASLTLS, controller}

// Broker is one broker, running or not. Its methods are for one goroutine.
type Broker struct {
	ID  int    // from 1
	Dir string // server.properties, the broker's log, and in data/ what it keeps

	t      testing.TB
	port   int // of the first listener
	script string
	cmd    *exec.Cmd     // nil when it does not run
	exited chan struct{} // closed when its end was seen
}

func newBroker(t testing.TB, id, port int, dir string) *Broker {
	t.Helper()
	path, err := script()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b := &Broker{t: t, ID: id, Dir: dir, port: port, script: path}
	t.Cleanup(func() {
		b.Kill()
		if t.Failed() {
			t.Logf("log of broker %d:\n%s", b.ID, b.tail(20))
		}
	})
	return b
}

// Addr is the broker's address at a listener.
func (b *Broker) Addr(l Listener) string {
	return net.JoinHostPort(host, strconv.Itoa(b.port+slices.Index(listeners, l)))
}

// DataDir is where the broker keeps its records.
func (b *Broker) DataDir() string { return filepath.Join(b.Dir, "data") }

func (b *Broker) logFile() string    { return filepath.Join(b.Dir, "log") }
func (b *Broker) properties() string { return filepath.Join(b.Dir, "server.properties") }
func (b *Broker) keyFile() string    { return filepath.Join(b.Dir, "server.pem") }

// configure writes server.properties: what all brokers of deploy/kafka have in
// common, this one's own lines, and those of opts.
func (b *Broker) configure(c *Cluster, opts Options) {
	b.t.Helper()
	common, err := os.ReadFile(filepath.Join(filepath.Dir(b.script), "server.properties"))
	if err != nil {
		b.t.Fatal(err)
	}
	ca := filepath.Join(b.Dir, "ca.pem")
	b.write(ca, c.Authority.CA())
	b.SetCertificate(c.Authority.Server(0))
	var voters, listen, own []string
	for _, each := range c.Brokers {
		voters = append(voters, strconv.Itoa(each.ID)+"@"+each.Addr(controller))
	}
	for _, l := range listeners {
		listen = append(listen, string(l)+"://"+b.Addr(l))
	}
	settings := map[string]string{
		"node.id":                            strconv.Itoa(b.ID),
		"controller.quorum.voters":           strings.Join(voters, ","),
		"listeners":                          strings.Join(listen, ","),
		"listener.security.protocol.map":     "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,MTLS:SSL,SASLTLS:SASL_SSL",
		"inter.broker.listener.name":         "PLAINTEXT",
		"log.dirs":                           b.DataDir(),
		"default.replication.factor":         strconv.Itoa(len(c.Brokers)),
		"min.insync.replicas":                strconv.Itoa(min(2, len(c.Brokers))),
		"offsets.topic.replication.factor":   strconv.Itoa(len(c.Brokers)),
		"sasl.enabled.mechanisms":            "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"ssl.keystore.type":                  "PEM",
		"ssl.keystore.location":              b.keyFile(),
		"ssl.truststore.type":                "PEM",
		"ssl.truststore.location":            ca,
		"listener.name.mtls.ssl.client.auth": "required",
	}
	for _, l := range []string{"sasl", "sasltls"} {
		const module = "org.apache.kafka.common.security."
		settings["listener.name."+l+".plain.sasl.jaas.config"] = fmt.Sprintf("%splain.PlainLoginModule required user_%s=%q;", module, User, Password)
		settings["listener.name."+l+".scram-sha-256.sasl.jaas.config"] = module + "scram.ScramLoginModule required;"
		settings["listener.name."+l+".scram-sha-512.sasl.jaas.config"] = module + "scram.ScramLoginModule required;"
	}
	maps.Copy(settings, opts.Settings)
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		own = append(own, key+"="+settings[key]+"\n")
	}
	b.write(b.properties(), append(common, strings.Join(own, "")...))
}

// SetCertificate replaces the broker's certificate and key, for its next start.
func (b *Broker) SetCertificate(pem []byte) {
	b.t.Helper()
	b.write(b.keyFile(), pem)
}

func (b *Broker) write(path string, text []byte) {
	b.t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// format makes the broker's storage. It may run beside others.
func (b *Broker) format() {
	out, err := exec.Command(b.script, "java", "kafka.tools.StorageTool", "format",
		"--cluster-id", clusterID, "--config", b.properties()).CombinedOutput()
	if err != nil {
		b.t.Errorf("format the storage of broker %d: %v\n%s", b.ID, err, out)
	}
}

// Start starts the broker and waits until it answers.
func (b *Broker) Start() {
	b.t.Helper()
	b.StartOnly()
	b.WaitReady()
}

// StartOnly starts the broker and returns at once.
func (b *Broker) StartOnly() {
	b.t.Helper()
	if b.Running() {
		b.t.Fatalf("broker %d runs already", b.ID)
	}
	log, err := os.Create(b.logFile())
	if err != nil {
		b.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(b.script, "java", "kafka.Kafka", b.properties())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = endsWithUs()
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	exited := make(chan struct{})
	b.cmd, b.exited = cmd, exited
	var wait sync.WaitGroup
	wait.Go(func() {
		_ = cmd.Wait()
		close(exited)
	})
}

// WaitReady waits until the broker has said that it started, which is after the
// others have seen it.
func (b *Broker) WaitReady() {
	b.t.Helper()
	process.Eventually(b.t, startWithin, fmt.Sprintf("broker %d has started", b.ID), func() error {
		if b.Ended() {
			b.t.Fatalf("broker %d ended by itself:\n%s", b.ID, b.tail(30))
		}
		log, err := os.ReadFile(b.logFile())
		if err == nil && !strings.Contains(string(log), "Kafka Server started") {
			err = errors.New("not yet")
		}
		return err
	})
}

// Running says whether there is a process that nobody has seen the end of.
func (b *Broker) Running() bool { return b.cmd != nil }

// Ended says whether the process ended by itself.
func (b *Broker) Ended() bool {
	if b.cmd == nil {
		return false
	}
	select {
	case <-b.exited:
		return true
	default:
		return false
	}
}

// Kill ends the broker as kill -9 does, and waits for its end.
func (b *Broker) Kill() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Kill()
	<-b.exited
	b.cmd = nil
}

// Stop ends the broker with SIGTERM, which hands its partitions over first.
func (b *Broker) Stop() {
	b.t.Helper()
	b.signal(syscall.SIGTERM)
	select {
	case <-b.exited:
		b.cmd = nil
	case <-time.After(startWithin):
		b.t.Fatalf("broker %d did not end:\n%s", b.ID, b.tail(30))
	}
}

// Pause stops the broker where it is (SIGSTOP): its connections stay open, and
// nothing answers.
func (b *Broker) Pause() { b.signal(syscall.SIGSTOP) }

// Resume lets a paused broker go on.
func (b *Broker) Resume() { b.signal(syscall.SIGCONT) }

func (b *Broker) signal(s syscall.Signal) {
	b.t.Helper()
	if b.cmd == nil {
		b.t.Fatalf("broker %d does not run", b.ID)
	}
	if err := b.cmd.Process.Signal(s); err != nil {
		b.t.Fatalf("broker %d: %v", b.ID, err)
	}
}

// tail is the end of the broker's log.
func (b *Broker) tail(lines int) string {
	log, err := os.ReadFile(b.logFile())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(log), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
