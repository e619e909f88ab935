// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"muster/test/process"
)

// devLine is what `muster dev --nodes 3 --agents 6` prints each second once all
// its agents are there and a leader is.
var devLine = regexp.MustCompile(`(?m)^agents 6 \(\d+\+\d+\+\d+\)  records in ([\d,]+) \(\+\d+/s\)  delivered to Kafka ([\d,]+)  pending \d+  leader dev-[123]$`)

// dev is a running `muster dev` in a network namespace of its own, for its ports
// are fixed.
type dev struct {
	cmd    *exec.Cmd
	out    *process.Output
	exited chan struct{}
}

func startDev(t *testing.T, args ...string) *dev {
	t.Helper()
	args = append([]string{"-n", "sh", "-c", `ip link set lo up && exec "$0" dev "$@"`, process.Binary(t)}, args...)
	d := &dev{cmd: exec.Command("unshare", args...), out: &process.Output{}, exited: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		_ = d.cmd.Wait()
		close(d.exited)
	})
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		wait.Wait()
		if t.Failed() {
			t.Logf("output of muster dev:\n%.6000s", d.out)
		}
	})
	return d
}

// flows returns nil once all agents are there and records get through to Kafka.
func (d *dev) flows() error {
	lines := devLine.FindAllStringSubmatch(d.out.String(), -1)
	if len(lines) == 0 {
		return fmt.Errorf("the last line is %q", d.out.Tail(1))
	}
	delivered, err := strconv.Atoi(strings.ReplaceAll(lines[len(lines)-1][2], ",", ""))
	if err == nil && delivered < 100 {
		err = fmt.Errorf("%d records are delivered", delivered)
	}
	return err
}

// A trial of three nodes forms a cluster; what it prints can be typed as it
// stands; Ctrl-C and even kill -9 leave data that the next trial goes on with.
func TestProcessDevCluster(t *testing.T) {
	if !process.HasNetworks() {
		t.Skip("muster dev has fixed ports: this needs a network namespace, and so root")
	}
	dir := t.TempDir()
	for _, end := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL, syscall.SIGTERM} {
		d := startDev(t, "--nodes", "3", "--agents", "6", "--data-dir", dir)
		process.Eventually(t, time.Minute, "records of 6 agents flow", d.flows)
		typed := 0
		for line := range strings.Lines(d.out.String()) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, process.Binary(t)) {
				continue
			}
			inside := exec.Command("nsenter", "--net=/proc/"+strconv.Itoa(d.cmd.Process.Pid)+"/ns/net", "sh", "-c", line)
			out, err := inside.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			if strings.Contains(line, "node list") && strings.Count(string(out), "dev-") < 3 {
				t.Errorf("%s:\n%s", line, out)
			}
			typed++
		}
		if typed != 4 {
			t.Errorf("%d commands were printed, want 4", typed)
		}
		if err := d.cmd.Process.Signal(end); err != nil {
			t.Fatal(err)
		}
		select {
		case <-d.exited:
		case <-time.After(10 * time.Second):
			t.Fatalf("it goes on after %v", end)
		}
		if code := d.cmd.ProcessState.ExitCode(); code != 0 && end != syscall.SIGKILL {
			t.Errorf("%v: exit code %d", end, code)
		}
	}
}
