// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startWithin bounds every wait for a process: generous, because CI machines
// are slow, and only ever spent by a test that fails.
const startWithin = 60 * time.Second

// Node is one `muster server`, running or not. Its fields and the methods that
// call it over HTTP are safe for concurrent use; those that start and end the
// process are for the test's own goroutine.
type Node struct {
	Name     string
	Dir      string // its data directory
	SD       string // base URLs
	HTTP     string
	HTTPS    string
	Agent    string // host:port for agents
	Gossip   string // host:port for gossip
	Log      *Output
	args     []string
	env      []string
	netns    string // network namespace, "" for the test's own
	password string // of the first user, if the test chose it
	t        testing.TB
	child    *child
}

// child is one life of a node.
type child struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when its end was seen
	logged int           // bytes in the log before it
}

// freeAddrs returns so many loopback addresses, no two of them the same, whose
// ports were free a moment ago. They are below those that the system gives to
// clients, so that no connection takes them.
func freeAddrs(t testing.TB, count int) (addrs []string) {
	t.Helper()
	var err error
	for range 100 + count {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12000+rand.N(18000))); err != nil {
			continue
		}
		defer l.Close()
		if addrs = append(addrs, l.Addr().String()); len(addrs) == count {
			return addrs
		}
	}
	t.Fatal(err)
	return nil
}

// New describes a lone node on free ports with a data directory of its own;
// extra arguments go to `muster server`. Start starts it.
func New(t testing.TB, extra ...string) *Node {
	t.Helper()
	free := freeAddrs(t, 6)
	sd, plain, https, agent, gossip, peers := free[0], free[1], free[2], free[3], free[4], free[5]
	n := &Node{
		t: t, Name: "node-a", Dir: filepath.Join(t.TempDir(), "data"), Log: &Output{},
		SD: "http://" + sd, HTTP: "http://" + plain, HTTPS: "https://" + https, Agent: agent, Gossip: gossip,
	}
	n.args = append([]string{
		"server", "--data-dir", n.Dir, "--node-id", n.Name, "--bind", "127.0.0.1",
		"--sd-addr", sd, "--http-addr", plain, "--https-addr", https, "--agent-addr", agent,
		"--node-addr", peers, "--gossip-addr", gossip,
	}, extra...)
	n.endWithTest()
	return n
}

// endWithTest kills the process with the test and shows what it said when the
// test has failed.
func (n *Node) endWithTest() {
	n.t.Cleanup(func() {
		n.Kill()
		if n.t.Failed() {
			n.t.Logf("log of %s:\n%s", n.Name, n.Log.Tail(200))
		}
	})
}

// Set replaces the value of one of the arguments that New chose.
func (n *Node) Set(flag, value string) {
	n.t.Helper()
	for i, a := range n.args {
		if a == flag {
			n.args[i+1] = value
			if flag == "--data-dir" {
				n.Dir = value
			}
			return
		}
	}
	n.t.Fatalf("no argument %s", flag)
}

// Start starts the process and waits until it is ready.
func (n *Node) Start(more ...string) {
	n.t.Helper()
	n.StartOnly(more...)
	n.WaitReady()
}

// StartOnly starts the process and returns at once. More arguments are for this
// life alone.
func (n *Node) StartOnly(more ...string) {
	n.t.Helper()
	if n.Running() {
		n.t.Fatalf("%s runs already", n.Name)
	}
	args := append(append([]string(nil), n.args...), more...)
	cmd := exec.Command(Binary(n.t), args...)
	if n.netns != "" {
		// ip becomes the node: it is the same process, so that signals reach it.
		cmd = exec.Command("ip", append([]string{"netns", "exec", n.netns, Binary(n.t)}, args...)...)
	}
	cmd.Env = append(os.Environ(), n.env...)
	cmd.Stdout, cmd.Stderr = n.Log, n.Log
	c := &child{cmd: cmd, exited: make(chan struct{}), logged: len(n.Log.String())}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.child = c
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = cmd.Wait()
		close(c.exited)
	})
}

// Host is the node's address.
func (n *Node) Host() string {
	host, _, _ := net.SplitHostPort(n.Gossip)
	return host
}

// Running says whether there is a process that nobody has seen the end of.
func (n *Node) Running() bool { return n.child != nil }

// Ended returns how the process ended, if it did so by itself.
func (n *Node) Ended() error {
	if n.child == nil {
		return nil
	}
	select {
	case <-n.child.exited:
		return fmt.Errorf("%s ended by itself: %s\n%s", n.Name, n.child.cmd.ProcessState, n.Log.Tail(20))
	default:
		return nil
	}
}

// WaitReady waits until /readyz says yes.
func (n *Node) WaitReady() {
	n.t.Helper()
	Eventually(n.t, startWithin, n.Name+" is ready", func() error {
		if err := n.Ended(); err != nil {
			n.t.Fatal(err)
		}
		ready, reasons, err := n.Ready()
		if err == nil && !ready {
			err = fmt.Errorf("not ready: %v", reasons)
		}
		return err
	})
}

// Kill ends the process as kill -9 does, and waits for its end.
func (n *Node) Kill() {
	if n.child == nil {
		return
	}
	_ = n.child.cmd.Process.Kill()
	<-n.child.exited
	n.child = nil
}

// Wipe takes the data directory away from a node that does not run.
func (n *Node) Wipe() {
	n.t.Helper()
	if n.Running() {
		n.t.Fatalf("%s runs", n.Name)
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		n.t.Fatal(err)
	}
}

// Pause stops the process where it is (SIGSTOP): it hears and says nothing, and
// nobody is told.
func (n *Node) Pause() { n.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on, which does not know how long it was away.
func (n *Node) Resume() { n.signal(syscall.SIGCONT) }

// Terminate asks the process to end, and returns at once; WaitExit waits. A
// process that has not logged anything yet may not listen to signals either, and
// would end as if killed: it is waited for.
func (n *Node) Terminate() {
	n.t.Helper()
	Eventually(n.t, startWithin, n.Name+" has begun", func() error {
		if n.Ended() == nil && n.Log.Since(n.child.logged) == "" {
			return errors.New("it has logged nothing")
		}
		return nil
	})
	n.signal(syscall.SIGTERM)
}

func (n *Node) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.child.cmd.Process.Signal(s); err != nil {
		n.t.Fatalf("%s: %v", n.Name, err)
	}
}

// Stop ends the process with SIGTERM and returns how long that took and its
// exit code.
func (n *Node) Stop() (took time.Duration, code int) {
	n.t.Helper()
	began := time.Now()
	n.Terminate()
	code = n.WaitExit()
	return time.Since(began), code
}

// WaitExit waits for the process to end by itself and returns its exit code.
func (n *Node) WaitExit() int {
	n.t.Helper()
	select {
	case <-n.child.exited:
	case <-time.After(startWithin):
		n.t.Fatalf("the process did not end within %s\n%s", startWithin, n.Log.String())
	}
	code := n.child.cmd.ProcessState.ExitCode()
	n.child = nil
	return code
}
