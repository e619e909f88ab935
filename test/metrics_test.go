// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"muster/test/process"
)

// checkMetrics is set by `make check-metrics`: there, what is needed to build
// promcheck must be there.
const checkMetrics = "MUSTER_TEST_METRICS"

const (
	dashboardFile = "../deploy/grafana/muster.json"
	alertsFile    = "../deploy/prometheus/alerts.yaml"
	alertTests    = "../deploy/prometheus/alerts_test.yaml"
	operations    = "../docs/operations.md"
)

// promcheck builds the program that holds dashboard and alerts against
// Prometheus' engine. It is a module of its own, which may have to be fetched.
func promcheck(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "promcheck")
	build := exec.Command("go", "build", "-C", "../internal/tools/promcheck", "-o", file, ".")
	if out, err := build.CombinedOutput(); err != nil {
		if os.Getenv(checkMetrics) != "" {
			t.Fatalf("build promcheck: %v\n%s", err, out)
		}
		t.Skipf("promcheck cannot be built here, make check-metrics insists on it: %v\n%.500s", err, out)
	}
	return file
}

// TestAlertRules runs the unit tests of the alert rules.
func TestAlertRules(t *testing.T) {
	out, err := exec.Command(promcheck(t), "rules", alertsFile, alertTests).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// panels are those of the dashboard that show something.
func panels(t *testing.T) (out []panel) {
	t.Helper()
	b, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var d struct{ Panels []panel }
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(d.Panels, func(p panel) bool { return p.Type == "row" })
}

type panel struct {
	Title, Type, Description string
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct{ Expr string }
}

// TestDashboardIsComplete wants of each panel what a person needs who has never
// seen it, and of each alert a line in the documentation.
func TestDashboardIsComplete(t *testing.T) {
	all := panels(t)
	if len(all) < 50 {
		t.Errorf("only %d panels", len(all))
	}
	seen := make(map[string]bool)
	for _, p := range all {
		if p.Title == "" || seen[p.Title] || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q: no title of its own, no unit, or no query", p.Title)
		}
		seen[p.Title] = true
		if len(p.Description) < 30 {
			t.Errorf("panel %q: its description does not say what is normal: %q", p.Title, p.Description)
		}
		for _, target := range p.Targets {
			if !strings.Contains(target.Expr, "$job") || !strings.Contains(target.Expr, "$node") {
				t.Errorf("panel %q does not heed the variables: %s", p.Title, target.Expr)
			}
		}
	}
	alerts, err := os.ReadFile(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)- alert: (\w+)$`).FindAllSubmatch(alerts, -1) {
		if !bytes.Contains(docs, append([]byte("`"), append(m[1], '`')...)) {
			t.Errorf("docs/operations.md does not name the alert %s", m[1])
		}
	}
}

// metricsReport is what `promcheck live` found.
type metricsReport struct {
	Scrapes, Failed int
	Panels          []struct {
		Title, Expr, Error string
		Series, Values     int
	}
	Alerts           []alertReport
	Unknown, Metrics []string
}

// alertReport tells when a rule was looked at, and when it was true.
type alertReport struct {
	Name, Error string
	For         int64
	At, True    []int64
}

// falseAlarm tells whether the rule would ring on a cluster that is well. Rules
// with a time to wait may be true for a moment, on a machine that is busy, but
// not all the time.
func (a alertReport) falseAlarm(from, to time.Time) bool {
	between := func(times []int64) (n int) {
		for _, at := range times {
			if at > from.UnixMilli() && at < to.UnixMilli() {
				n++
			}
		}
		return n
	}
	looked, wasTrue := between(a.At), between(a.True)
	return wasTrue > 0 && (a.For == 0 || wasTrue == looked)
}

func TestFalseAlarms(t *testing.T) {
	at := func(ms ...int64) []int64 { return ms }
	from, to := time.UnixMilli(1000), time.UnixMilli(2000)
	for name, tt := range map[string]struct {
		waits int64
		wasOn []int64
		want  bool
	}{
		"never":                         {60_000, nil, false},
		"for a moment":                  {60_000, at(1500), false},
		"all the time":                  {60_000, at(1100, 1500, 1900), true},
		"only in the trouble":           {60_000, at(2100), false},
		"for a moment, without waiting": {0, at(1500), true},
		"only in the trouble, too":      {0, at(2100), false},
	} {
		a := alertReport{For: tt.waits, At: at(900, 1100, 1500, 1900, 2100), True: tt.wasOn}
		if got := a.falseAlarm(from, to); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// watchMetrics scrapes the nodes until the test calls what it returns.
func watchMetrics(t *testing.T, nodes []*process.Node) (finish func() metricsReport) {
	t.Helper()
	args := []string{"live", "-dashboard", dashboardFile, "-rules", alertsFile}
	for _, n := range nodes {
		args = append(args, n.SD+"/metrics")
	}
	cmd := exec.CommandContext(t.Context(), promcheck(t), args...)
	var out, trouble bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &trouble
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() (r metricsReport) {
		t.Helper()
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("promcheck: %v\n%s", err, trouble.String())
		}
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
}

// TestDashboardAndAlertsLive starts a cluster with agents, takes Kafka away for a
// while and a node down in it, and wants data from every query of the dashboard,
// no alert before the trouble, and those that belong to it.
func TestDashboardAndAlertsLive(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	c := process.NewCluster(t, 3, process.ClusterOptions{})
	c.Form()
	finish := watchMetrics(t, c.Nodes)
	calm := time.Now()
	agents := c.StartAgents(process.AgentOptions{Agents: 12, Rate: 20})
	process.Eventually(t, time.Minute, "all agents connected", func() error { return agents.Connected(12) })
	c.Writes(time.Minute, c.Nodes...)
	<-time.After(3 * time.Second)
	trouble := time.Now()
	c.Kafka.Away()
	down := c.Follower()
	process.Eventually(t, time.Minute, "the nodes notice", func() error { return kafkaIs(0, c.Nodes) })
	if _, code := down.Stop(); code != 0 {
		t.Errorf("%s ended with %d", down.Name, code)
	}
	<-time.After(time.Second)
	down.Start()
	process.Eventually(t, time.Minute, "all agents connected again", func() error { return agents.Connected(12) })
	<-time.After(3 * time.Second)
	c.Kafka.Back()
	process.Eventually(t, time.Minute, "the nodes notice", func() error { return kafkaIs(1, c.Nodes) })
	<-time.After(2 * time.Second)
	r := finish()

	for _, p := range r.Panels {
		if p.Error != "" || p.Values == 0 {
			t.Errorf("panel %q shows nothing: %d series, %d numbers %s: %s", p.Title, p.Series, p.Values, p.Error, p.Expr)
		}
	}
	if len(r.Unknown) > 0 {
		t.Errorf("dashboard or alerts ask for metrics that no node has: %v", r.Unknown)
	}
	rang := make(map[string]bool)
	for _, a := range r.Alerts {
		if a.Error != "" {
			t.Errorf("alert %s: %s", a.Name, a.Error)
		}
		rang[a.Name] = len(a.True) > 0
		if a.falseAlarm(calm, trouble) {
			t.Errorf("alert %s is true before any trouble: %v of %v", a.Name, a.True, a.At)
		}
	}
	for _, name := range []string{"MusterKafkaAway", "MusterNodeDown"} {
		if !rang[name] {
			t.Errorf("alert %s was not true in its trouble", name)
		}
	}
	for _, name := range []string{"MusterRecordsDropped", "MusterRecordsRefused", "MusterLedgerUnbalanced", "MusterStateDiffers", "MusterPanics", "MusterSpoolErrors"} {
		if rang[name] {
			t.Errorf("alert %s was true, and nothing was lost", name)
		}
	}
	unseen(t, r.Metrics)
}

// kafkaIs returns nil when each of the nodes says so.
func kafkaIs(up float64, nodes []*process.Node) error {
	for _, n := range nodes {
		_, body, err := n.Try("GET", "/metrics", "", "")
		if err != nil {
			return err
		}
		if want := fmt.Sprintf("\nmuster_recordlog_kafka_up %v\n", up); !strings.Contains(string(body), want) {
			return fmt.Errorf("%s does not say %s", n.Name, strings.TrimSpace(want))
		}
	}
	return nil
}

// unseen fails for metrics of Muster that neither the dashboard nor an alert
// shows: whoever adds one says there what it is for.
func unseen(t *testing.T, metrics []string) {
	t.Helper()
	used, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	alerts, err := os.ReadFile(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	words := make(map[string]bool)
	for _, w := range regexp.MustCompile(`muster_\w+`).FindAllString(string(used)+string(alerts), -1) {
		words[strings.TrimSuffix(strings.TrimSuffix(w, "_bucket"), "_count")] = true
	}
	for _, m := range metrics {
		base := m
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			base = strings.TrimSuffix(base, suffix)
		}
		if strings.HasPrefix(m, "muster_") && !words[base] && !words[m] {
			t.Errorf("%s is in no panel and no alert", m)
		}
	}
}
