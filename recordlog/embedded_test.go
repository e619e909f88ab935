// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"muster/recordlog"
)

// serve runs an Embedded on dir until stop. These tests use the real disk and
// the real loopback, so no bubbles.
func serve(t *testing.T, dir string, change func(*recordlog.EmbeddedOptions)) (e *recordlog.Embedded, stop func()) {
	t.Helper()
	opts := recordlog.EmbeddedOptions{
		Dir: dir, Topics: map[string]int{topic: 2}, RetentionBytes: 32 << 20,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if change != nil {
		change(&opts)
	}
	e, err := recordlog.NewEmbedded(opts)
	if err != nil {
		t.Fatal(err)
	}
	stop = runUntil(t, e.Run)
	return e, stop
}

// runUntil runs a part until the returned func is called, at the latest at the test's end.
func runUntil(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// writeTo returns a Log that writes to e.
func writeTo(t *testing.T, e *recordlog.Embedded) (l *recordlog.Log, stop func()) {
	t.Helper()
	l, err := recordlog.New(recordlog.Options{
		Brokers: e.Addrs(), Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return l, runUntil(t, l.Run)
}

// readFrom reads values from e until there were n, or for 10 s.
func readFrom(t *testing.T, e *recordlog.Embedded, n int) []string {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(e.Addrs()...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var values []string
	for len(values) < n && ctx.Err() == nil {
		c.PollFetches(ctx).EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
	}
	slices.Sort(values)
	return values
}

// appendAll appends values one a message and waits until they are delivered.
func appendAll(t *testing.T, l *recordlog.Log, values ...string) {
	t.Helper()
	for i, v := range values {
		if err := l.Append(t.Context(), fmt.Sprint("agent-", i%7), [][]byte{[]byte(v)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() string {
		if l.Ledger().Pending == 0 {
			return ""
		}
		return fmt.Sprintf("still pending: %+v", l.Ledger())
	})
}

// eventually waits until wrong finds nothing wrong, at most 10 s.
func eventually(t *testing.T, wrong func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		why := wrong()
		if why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(why)
		}
	}
}

func numbered(prefix string, n int) []string {
	values := make([]string, n)
	for i := range values {
		values[i] = fmt.Sprintf("%s-%04d", prefix, i)
	}
	return values
}

func TestEmbeddedKeepsDataOverRestarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kafka")
	want := []string{}
	for _, round := range []string{"a", "b", "c"} {
		e, stop := serve(t, dir, nil)
		l, stopLog := writeTo(t, e)
		values := numbered(round, 50)
		want = append(want, values...)
		appendAll(t, l, values...)
		stopLog()
		if got := readFrom(t, e, len(want)); !slices.Equal(got, want) {
			t.Fatalf("round %s: read %d records, want %d", round, len(got), len(want))
		}
		stop()
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v; want mode 0700", info.Mode(), err)
	}
}

// TestEmbeddedKeepsDataAfterKill: what was acknowledged is on disk at once. The
// files are copied while the broker runs, as a kill would leave them, with a
// torn batch at the end.
func TestEmbeddedKeepsDataAfterKill(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	e, stop := serve(t, dir, nil)
	l, stopLog := writeTo(t, e)
	want := numbered("a", 100)
	appendAll(t, l, want...)
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	stopLog()
	stop()
	tearTail(t, copied)

	e, _ = serve(t, copied, nil)
	if got := readFrom(t, e, len(want)); !slices.Equal(got, want) {
		t.Fatalf("read %d records after the kill, want %d", len(got), len(want))
	}
	l, _ = writeTo(t, e)
	more := numbered("b", 100)
	appendAll(t, l, more...)
	if got := readFrom(t, e, 200); !slices.Equal(got, append(want, more...)) {
		t.Fatalf("read %d records after writing on, want 200", len(got))
	}
}

// tearTail adds half a batch to the newest segment of each partition.
func tearTail(t *testing.T, dir string) {
	t.Helper()
	torn := 0
	walkFiles(t, dir, func(path string, _ fs.FileInfo) {
		if !strings.HasSuffix(path, ".dat") {
			return
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		batch := 12 + int(binary.BigEndian.Uint32(data[8:])) // of the first
		if err := os.WriteFile(path, append(data, data[:batch/2]...), 0o600); err != nil {
			t.Fatal(err)
		}
		torn++
	})
	if torn == 0 {
		t.Fatal("no segment files found")
	}
}

func walkFiles(t *testing.T, dir string, fn func(path string, info fs.FileInfo)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a segment went away while we walk
		}
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err == nil {
			fn(path, info)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func diskUse(t *testing.T, dir string) (n int64) {
	t.Helper()
	walkFiles(t, dir, func(_ string, info fs.FileInfo) { n += info.Size() })
	return n
}

func TestEmbeddedRetention(t *testing.T) {
	const retention = 12 << 20
	dir := t.TempDir()
	e, stop := serve(t, dir, func(o *recordlog.EmbeddedOptions) {
		o.RetentionBytes, o.Topics = retention, map[string]int{topic: 1}
	})
	l, stopLog := writeTo(t, e)
	record := make([]byte, 60_000)
	var written, most int64
	for i := 0; written < 5*retention; i++ {
		if err := l.Append(t.Context(), fmt.Sprint("agent-", i), [][]byte{record}, nil); err != nil {
			t.Fatal(err)
		}
		written += int64(len(record))
		if i%4 == 0 {
			most = max(most, diskUse(t, dir))
		}
	}
	stopLog()
	stop()
	if d := l.Ledger(); d.Delivered != d.Received {
		t.Fatalf("ledger = %+v, want all delivered", d)
	}
	end := diskUse(t, dir)
	t.Logf("at most %d %%, at the end %d %% of the setting", 100*most/retention, 100*end/retention)
	if most > retention*110/100 || end < retention*70/100 {
		t.Errorf("disk use at most %d, at the end %d, want <= 110 %% and >= 70 %% of %d", most, end, retention)
	}

	// Topics that exist take over a smaller share.
	const smaller = 16 << 20 // of two partitions, so 8 MiB for the one that is full
	_, stop = serve(t, dir, func(o *recordlog.EmbeddedOptions) {
		o.RetentionBytes, o.Topics = smaller, map[string]int{topic: 1, "k8s": 1}
	})
	eventually(t, func() string {
		if use := diskUse(t, dir); use > smaller*110/100/2 {
			return fmt.Sprintf("disk use %d with one of two partitions filled and a setting of %d", use, smaller)
		}
		return ""
	})
	stop()
}

// TestEmbeddedDiskTrouble: the broker notes a batch's sequence before it fails
// to write the batch. What the Log sends again must not pass for a duplicate.
func TestEmbeddedDiskTrouble(t *testing.T) {
	dir := t.TempDir()
	e, _ := serve(t, dir, func(o *recordlog.EmbeddedOptions) { o.Topics = map[string]int{topic: 1} })
	partitions := filepath.Join(dir, "partitions")
	if err := os.WriteFile(partitions, nil, 0o600); err != nil { // where a directory must be
		t.Fatal(err)
	}
	l, _ := writeTo(t, e)
	if err := l.Append(t.Context(), "agent-1", [][]byte{[]byte("precious")}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if strings.Contains(l.Status().LastError, "refused a batch") {
			return ""
		}
		return fmt.Sprintf("no batch was refused again and again: %+v", l.Status())
	})
	if err := os.Remove(partitions); err != nil {
		t.Fatal(err)
	}
	appendAll(t, l)
	if got := readFrom(t, e, 1); !slices.Equal(got, []string{"precious"}) {
		t.Errorf("read %q, want the record", got)
	}
}

func TestEmbeddedExplainsUnreadableData(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "meta.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := recordlog.NewEmbedded(recordlog.EmbeddedOptions{
		Dir: dir, Topics: map[string]int{topic: 1}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "move "+dir+" away") {
		t.Errorf("Run = %v, want it to say what to do", err)
	}
}

func TestEmbeddedRefusesWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	good := recordlog.EmbeddedOptions{Dir: dir, Topics: map[string]int{topic: 1}, Logger: slog.New(slog.DiscardHandler)}
	first, err := recordlog.NewEmbedded(good)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for name, c := range map[string]struct {
		change func(*recordlog.EmbeddedOptions)
		want   string
	}{
		"directory in use": {func(*recordlog.EmbeddedOptions) {}, "in use by another process"},
		"port in use": {func(o *recordlog.EmbeddedOptions) {
			o.Dir, o.Addr = t.TempDir(), first.Addrs()[0]
		}, "address already in use"},
		"not loopback":     {func(o *recordlog.EmbeddedOptions) { o.Addr = "0.0.0.0:9092" }, "not loopback"},
		"no topic":         {func(o *recordlog.EmbeddedOptions) { o.Topics = nil }, "Topics"},
		"little retention": {func(o *recordlog.EmbeddedOptions) { o.RetentionBytes = 1 << 20 }, "RetentionBytes"},
		"no directory":     {func(o *recordlog.EmbeddedOptions) { o.Dir = "" }, "Dir"},
		"no logger":        {func(o *recordlog.EmbeddedOptions) { o.Logger = nil }, "Logger"},
	} {
		opts := good
		c.change(&opts)
		if e, err := recordlog.NewEmbedded(opts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: NewEmbedded = %v, %v; want an error with %q", name, e, err, c.want)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := recordlog.NewEmbedded(good)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	again.Close()
}
