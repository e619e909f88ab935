// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"muster/internal/lifecycle"
)

const (
	metadataEvery  = 30 * time.Second
	metadataMinGap = 250 * time.Millisecond // between two that were asked for
)

// cluster is what the last metadata said. It does not change; nil knows nothing.
type cluster struct {
	brokers    []string // host:port, sorted
	controller string
	leaders    []string // host:port by partition; empty if there is none now
}

// leader returns the address of a partition's leader, "" if unknown.
func (c *cluster) leader(partition int) string {
	if c == nil || partition >= len(c.leaders) {
		return ""
	}
	return c.leaders[partition]
}

// refreshSoon asks for metadata without waiting for it.
func (l *Log) refreshSoon() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// watchCluster learns the cluster at once, then every 30 s and when asked, and
// starts a sender in group for each new partition.
func (l *Log) watchCluster(ctx context.Context, group *lifecycle.Group) {
	var c *conn
	defer func() { c.close() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for failures := 0; ; {
		kick := l.kick
		if failures > 0 {
			kick = nil // the timer is near
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-kick:
			c.close() // another broker may know more
			c = nil
		}
		var err error
		if c, err = l.refresh(ctx, c, group); err == nil {
			failures = 0
			l.health.metadataOK()
			timer.Reset(metadataEvery)
			rest(ctx, metadataMinGap)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		failures++
		l.health.metadataFailed(explain(err, l.opts.Topic))
		timer.Reset(backoff(failures))
	}
}

// rest waits for d or ctx's end.
func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// refresh asks over c, or over a new connection, and publishes the answer. The
// connection it returns is nil if there is none of use.
func (l *Log) refresh(ctx context.Context, c *conn, group *lifecycle.Group) (*conn, error) {
	if c != nil && time.Since(c.used) > idleLimit {
		c.close()
		c = nil
	}
	if c == nil {
		var err error
		if c, err = l.connectAny(ctx); err != nil {
			return nil, err
		}
	}
	res, err := c.roundTrip(ctx, &metadata.Request{TopicNames: []string{l.opts.Topic}})
	if err != nil {
		c.close()
		return nil, fmt.Errorf("asking %s for metadata: %w", c.addr, err)
	}
	r, ok := res.(*metadata.Response)
	if !ok || len(r.Topics) != 1 {
		c.close()
		return nil, fmt.Errorf("asking %s for metadata: unexpected answer", c.addr)
	}
	err = codeError(r.Topics[0].ErrorCode)
	if errors.Is(err, kafka.UnknownTopicOrPartition) {
		err = l.createTopic(ctx, c, l.newCluster(r).controller)
	}
	if err != nil {
		return c, fmt.Errorf("topic %s: %w", l.opts.Topic, err)
	}
	seen := l.newCluster(r)
	if len(seen.leaders) == 0 {
		return c, fmt.Errorf("topic %s has no partitions yet", l.opts.Topic)
	}
	l.tellLeaders(l.cluster.Swap(seen), seen)
	l.health.learnt(seen.brokers, len(seen.leaders))
	l.spools.note(len(seen.leaders))
	l.repartition(ctx, group, len(seen.leaders))
	l.moveOrphans(ctx, group)
	if err := l.askLimits(ctx, c); err != nil {
		c.close()
		l.logger.Debug("the topic's settings are not known: the defaults hold", "error", err)
		return nil, nil
	}
	return c, nil
}

// tellLeaders wakes the senders whose partitions are led by another broker now.
func (l *Log) tellLeaders(before, now *cluster) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i, p := range l.parts {
		if before.leader(i) != now.leader(i) {
			notify(p.wake)
		}
	}
}

// connectAny connects to any known or configured broker.
func (l *Log) connectAny(ctx context.Context) (*conn, error) {
	addrs := slices.Clone(l.opts.Brokers)
	if known := l.cluster.Load(); known != nil {
		addrs = append(addrs, known.brokers...)
		slices.Sort(addrs)
		addrs = slices.Compact(addrs)
	}
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	var first error
	for _, addr := range addrs {
		c, err := l.client.connect(ctx, addr)
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// newCluster reads an answer about one topic.
func (l *Log) newCluster(r *metadata.Response) *cluster {
	addrs := make(map[int32]string, len(r.Brokers))
	c := &cluster{}
	for _, b := range r.Brokers {
		addr := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		if l.opts.OneBroker {
			addr = l.opts.Brokers[0]
		}
		addrs[b.NodeID] = addr
		c.brokers = append(c.brokers, addr)
	}
	slices.Sort(c.brokers)
	c.controller = addrs[r.ControllerID]
	c.leaders = make([]string, len(r.Topics[0].Partitions))
	for _, p := range r.Topics[0].Partitions {
		if i := int(p.PartitionIndex); i >= 0 && i < len(c.leaders) {
			c.leaders[i] = addrs[p.LeaderID]
		}
	}
	return c
}

// createTopic makes the missing topic with the broker's own replication, or one
// replica where brokers are too old for that. It never returns nil: the topic is
// there when metadata shows it.
func (l *Log) createTopic(ctx context.Context, c *conn, controller string) (err error) {
	if controller != "" && controller != c.addr {
		if c, err = l.client.connect(ctx, controller); err != nil {
			return fmt.Errorf("creating it: %w", err)
		}
		defer c.close()
	}
	for _, replicas := range []int16{-1, 1} {
		err = l.createWith(ctx, c, replicas)
		if !errors.Is(err, kafka.InvalidReplicationFactor) && !errors.Is(err, kafka.UnsupportedVersion) {
			break
		}
	}
	switch {
	case err == nil:
		l.logger.Info("topic created", "topic", l.opts.Topic, "partitions", l.opts.Partitions)
		return errors.New("was just created")
	case errors.Is(err, kafka.TopicAlreadyExists):
		return errors.New("is being created")
	default:
		return fmt.Errorf("does not exist and cannot be created (%w): create it (kafka-topics.sh --create --topic %s --partitions %d) or let this user create topics",
			err, l.opts.Topic, l.opts.Partitions)
	}
}

func (l *Log) createWith(ctx context.Context, c *conn, replicas int16) error {
	res, err := c.roundTrip(ctx, &createtopics.Request{
		TimeoutMs: int32(l.opts.RequestTimeout.Milliseconds()),
		Topics: []createtopics.RequestTopic{{
			Name: l.opts.Topic, NumPartitions: int32(l.opts.Partitions), ReplicationFactor: replicas,
		}},
	})
	if err != nil {
		return err
	}
	r, ok := res.(*createtopics.Response)
	if !ok || len(r.Topics) != 1 {
		return errors.New("unexpected answer")
	}
	return codeError(r.Topics[0].ErrorCode)
}

// repartition makes the number of partitions n; 0 is not known yet. Records that
// were held for want of it move to their partitions before any new record gets there.
func (l *Log) repartition(ctx context.Context, group *lifecycle.Group, n int) {
	l.mu.RLock()
	old := len(l.parts) // nobody else changes it
	l.mu.RUnlock()
	if n == old || n == 0 || ctx.Err() != nil {
		return
	}
	l.logger.Info("partition count learnt", "topic", l.opts.Topic, "partitions", n, "before", old)
	l.mu.Lock()
	defer l.mu.Unlock()
	parts := slices.Clone(l.parts[:min(n, old)])
	for i := old; i < n; i++ {
		p := newPartition(l, i)
		parts = append(parts, p)
		if s := l.found[i]; s != nil {
			delete(l.found, i)
			p.startWriter(s, true, group)
		}
		l.startSender(p, group)
	}
	retired := l.parts[min(n, old):]
	l.parts = parts
	l.limits.learnt.Store(true)
	for _, p := range retired {
		p.retire()
	}
	l.moveAll(l.held.drain())
}

// startSender adds a partition. It needs the lock.
func (l *Log) startSender(p *partition, group *lifecycle.Group) {
	l.all = append(l.all, p)
	counted := !l.stopped // else somebody waits for them already
	if counted {
		l.senders.Add(1)
	}
	group.Go("partition "+strconv.Itoa(p.id), func(ctx context.Context) error {
		if counted {
			defer l.senders.Done()
		}
		p.run(ctx)
		if p.isRetired() {
			p.moveAway(ctx)
		}
		return nil
	})
}

// moveOrphans has the spools of partitions that the topic does not have any more
// moved. The count of partitions comes from Kafka.
func (l *Log) moveOrphans(ctx context.Context, group *lifecycle.Group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, s := range l.found {
		if ctx.Err() != nil {
			return
		}
		delete(l.found, id)
		p := newPartition(l, id)
		p.retired = true
		p.startWriter(s, true, group) // it ends at once
		l.startSender(p, group)
	}
}

// reroute puts the batches of a partition that is gone where their keys belong now.
func (l *Log) reroute(batches []*batch) {
	for _, b := range batches {
		if b.uncertain {
			l.book.possiblyDoubled(b.count)
		}
		l.room.giveShares(b)
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	l.moveAll(batches)
}

// moveAll puts the records of batches into the partitions of their keys, in
// order. Who waited for a batch waits for those that its records are in then. It
// needs the lock, for reading at least.
func (l *Log) moveAll(batches []*batch) {
	for i, b := range batches {
		b.each(func(ms int64, key, value []byte) {
			l.parts[partitionOf(key, len(l.parts))].putAgain(b, ms, key, value)
		})
		for _, t := range b.moves {
			t.leave()
		}
		batches[i] = nil
		b.reset()
		l.spare.Put(b)
	}
}
