// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/incrementalalterconfigs"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// DefaultRetentionBytes is what an Embedded keeps.
	DefaultRetentionBytes = 1 << 30
	// minPartitionBytes is the least share of RetentionBytes for a partition: a
	// batch of 1 MiB must stay a small part of it.
	minPartitionBytes = 8 << 20
	// stateLogBytes bounds each of the broker's two logs of its own state.
	stateLogBytes = 256 << 10
)

// EmbeddedOptions configure an Embedded. Dir, Topics and Logger are required.
type EmbeddedOptions struct {
	Dir    string         // made if it is not there, with mode 0700; one process at a time
	Addr   string         // loopback only; default 127.0.0.1:0, a free port
	Topics map[string]int // partitions by topic; a topic that exists keeps its number
	// RetentionBytes bounds the directory, all topics together, to within 10 %.
	// Each partition has an equal share of it, of at least 8 MiB, and loses its
	// oldest records beyond that. Zero means DefaultRetentionBytes.
	RetentionBytes int64

	Listen func(network, addr string) (net.Listener, error) // default: TCP
	Logger *slog.Logger
}

// Embedded is a Kafka broker inside this process, for trials and sites of one
// node: franz-go's kfake on a directory. What it acknowledged is on disk.
// It is not replicated, and it asks nobody for credentials.
type Embedded struct {
	opts    EmbeddedOptions
	door    *door
	release func() // gives up address and directory, once
}

// NewEmbedded locks the directory and binds the address; Run serves.
func NewEmbedded(opts EmbeddedOptions) (*Embedded, error) {
	setDefault(&opts.Addr, "127.0.0.1:0")
	setDefault(&opts.RetentionBytes, DefaultRetentionBytes)
	if opts.Listen == nil {
		opts.Listen = net.Listen
	}
	if err := opts.validate(); err != nil {
		return nil, err
	}
	lock, err := lockDir(opts.Dir, "embedded kafka")
	if err != nil {
		return nil, err
	}
	listener, err := opts.Listen("tcp", opts.Addr)
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("recordlog: binding the embedded kafka: %w", err)
	}
	e := &Embedded{opts: opts, door: newDoor(listener)}
	e.release = sync.OnceFunc(func() {
		_ = e.door.Close()
		_ = lock.Close()
	})
	return e, nil
}

func (o *EmbeddedOptions) validate() error {
	addr, err := netip.ParseAddrPort(o.Addr)
	partitions := 0
	for topic, n := range o.Topics {
		if topic == "" || n < 1 {
			return fmt.Errorf("recordlog: Topics: %q has %d partitions, at least 1 is needed", topic, n)
		}
		partitions += n
	}
	least := int64(partitions) * minPartitionBytes
	switch {
	case o.Dir == "":
		return errors.New("recordlog: Dir is required")
	case err != nil:
		return fmt.Errorf("recordlog: Addr: %w", err)
	case !addr.Addr().IsLoopback():
		return fmt.Errorf("recordlog: Addr: %s is not loopback, and the embedded kafka asks nobody for credentials", o.Addr)
	case partitions == 0:
		return errors.New("recordlog: Topics: at least one is needed")
	case o.RetentionBytes < least:
		return fmt.Errorf("recordlog: RetentionBytes: %d is below %d, 8 MiB for each of %d partitions", o.RetentionBytes, least, partitions)
	case o.Logger == nil:
		return errors.New("recordlog: Logger is required")
	}
	return nil
}

// lockDir makes the directory of what is named and keeps other processes out
// until the file is closed.
func lockDir(dir, what string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("recordlog: making the directory of the %s: %w", what, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("recordlog: locking the directory of the %s: %w", what, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("recordlog: %s is in use by another process: stop it, or use another data directory: %w", dir, err)
	}
	return f, nil
}

// Addrs returns the broker's address, as Options.Brokers wants it.
func (e *Embedded) Addrs() []string { return []string{e.door.Addr().String()} }

// Close gives up directory and address if Run was never called; Run does so itself.
func (e *Embedded) Close() error {
	e.release()
	return nil
}

// Run serves until ctx ends, then closes the files. It is called once. Clients
// that come before the topics are ready wait.
func (e *Embedded) Run(ctx context.Context) error {
	defer e.release()
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return e.door, nil }),
		kfake.DataDir(e.opts.Dir),
		kfake.SyncWrites(),
		kfake.WithLogger(kfakeLogger{e.opts.Logger}),
		kfake.BrokerConfigs(map[string]string{"state.log.compact.bytes": strconv.Itoa(stateLogBytes)}),
	)
	if err != nil {
		return fmt.Errorf("recordlog: starting the embedded kafka: %w; move %s away to start it empty", err, e.opts.Dir)
	}
	defer cluster.Close()
	if err := e.prepareTopics(ctx, cluster); err != nil {
		if ctx.Err() != nil {
			return nil // asked to end before it was ready
		}
		return err
	}
	e.door.open()
	e.retain(ctx, cluster)
	return nil
}

// prepareTopics makes missing topics and sets every topic's retention. Set on
// the broker it would be ignored.
func (e *Embedded) prepareTopics(ctx context.Context, cluster *kfake.Cluster) error {
	partitions := 0
	counts := make(map[string]int, len(e.opts.Topics))
	for topic, n := range e.opts.Topics {
		if existing := len(cluster.PartitionInfos(topic)); existing > 0 {
			n = existing
		}
		counts[topic] = n
		partitions += n
	}
	configs := e.retention(partitions)
	for topic, n := range counts {
		var err error
		if cluster.TopicInfo(topic) == nil {
			err = cluster.CreateTopic(topic, int32(n), configs)
		} else {
			err = e.setConfigs(ctx, topic, configs)
		}
		if err != nil {
			return fmt.Errorf("recordlog: preparing topic %s of the embedded kafka: %w", topic, err)
		}
	}
	return nil
}

// retention returns the topic settings that keep so many partitions within
// RetentionBytes. A partition takes at most retention.bytes, a segment of which
// only the end still counts, and what came since the last look (see retain).
func (e *Embedded) retention(partitions int) map[string]string {
	share := (e.opts.RetentionBytes - 2*stateLogBytes) / int64(partitions)
	return map[string]string{
		"retention.bytes":   strconv.FormatInt(share*85/100, 10),
		"segment.bytes":     strconv.FormatInt(share/16, 10),
		"retention.ms":      "-1",
		"max.message.bytes": strconv.Itoa(1 << 20),
	}
}

// setConfigs changes an existing topic's settings. kfake takes that as a request
// only, so it is sent through the door, which is still shut to others.
func (e *Embedded) setConfigs(ctx context.Context, topic string, configs map[string]string) error {
	const topicResource, set = 2, 0
	cl := &client{dial: e.door.dial, timeout: DefaultRequestTimeout}
	c, err := cl.connect(ctx, e.Addrs()[0])
	if err != nil {
		return err
	}
	defer c.close()
	resource := incrementalalterconfigs.RequestResource{ResourceType: topicResource, ResourceName: topic}
	for name, value := range configs {
		resource.Configs = append(resource.Configs, incrementalalterconfigs.RequestConfig{
			Name: name, ConfigOperation: set, Value: value,
		})
	}
	res, err := c.roundTrip(ctx, &incrementalalterconfigs.Request{
		Resources: []incrementalalterconfigs.RequestResource{resource},
	})
	if err != nil {
		return err
	}
	r, ok := res.(*incrementalalterconfigs.Response)
	if !ok || len(r.Responses) != 1 {
		return errors.New("unexpected answer")
	}
	if code := r.Responses[0].ErrorCode; code != 0 {
		return fmt.Errorf("%w: %s", kafka.Error(code), r.Responses[0].ErrorMessage)
	}
	return nil
}

// retain has old records removed until ctx ends. By itself kfake looks once an
// hour; here it looks whenever a sixty-fourth of RetentionBytes was written.
func (e *Embedded) retain(ctx context.Context, cluster *kfake.Cluster) {
	look := make(chan struct{}, 1)
	var written int64 // only the broker's own goroutine touches it
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if r, ok := req.(*kmsg.ProduceRequest); ok {
			written += recordBytes(r)
		}
		if written >= e.opts.RetentionBytes/64 {
			written = 0
			select {
			case look <- struct{}{}:
			default:
			}
		}
		return nil, nil, false // handled as usual
	})
	often := time.NewTicker(time.Minute)
	defer often.Stop()
	for {
		cluster.ApplyRetention()
		select {
		case <-look:
		case <-often.C:
		case <-ctx.Done():
			return
		}
	}
}

func recordBytes(r *kmsg.ProduceRequest) (n int64) {
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			n += int64(len(p.Records))
		}
	}
	return n
}

// door is a listener that is shut until open: connections wait, except those
// made by dial.
type door struct {
	net.Listener
	own    chan net.Conn
	opened chan struct{}
	closed chan struct{}
	open   func()
	shut   func() error
}

func newDoor(l net.Listener) *door {
	d := &door{Listener: l, own: make(chan net.Conn), opened: make(chan struct{}), closed: make(chan struct{})}
	d.open = sync.OnceFunc(func() { close(d.opened) })
	d.shut = sync.OnceValue(func() error {
		close(d.closed)
		return l.Close()
	})
	return d
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.own:
		return c, nil
	case <-d.opened:
		return d.Listener.Accept()
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (d *door) Close() error { return d.shut() }

// dial connects to whoever accepts; only before open.
func (d *door) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case d.own <- there:
		return here, nil
	case <-d.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// kfakeLogger passes on what an operator should know; requests are debug.
type kfakeLogger struct{ logger *slog.Logger }

// Logf implements kfake.Logger.
func (k kfakeLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case kfake.LogLevelError:
		to = slog.LevelError
	case kfake.LogLevelWarn:
		to = slog.LevelWarn
	case kfake.LogLevelNone, kfake.LogLevelInfo, kfake.LogLevelDebug:
	}
	if ctx := context.Background(); k.logger.Enabled(ctx, to) {
		k.logger.Log(ctx, to, "embedded kafka", "detail", fmt.Sprintf(format, args...))
	}
}
