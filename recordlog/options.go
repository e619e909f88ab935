// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package recordlog

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Defaults of Options.
const (
	DefaultTopic           = "hids_svr"
	DefaultPartitions      = 8
	DefaultMaxPendingBytes = 64 << 20
	// DefaultMaxRecordBytes is Kafka's default message.max.bytes less room for
	// the batch's header and a margin.
	DefaultMaxRecordBytes = 1<<20 - 4<<10
	DefaultSpoolMaxBytes  = 4 << 30
	DefaultFlushTimeout   = 10 * time.Second
	DefaultRequestTimeout = 10 * time.Second
)

const (
	// batchBytes is the size at which a batch is closed and sent at once.
	batchBytes = 512 << 10
	// flushEvery is how often batches that are not full are sent: of all partitions
	// at the same moments, since each time that an idle process wakes up costs more
	// than a batch does. A record waits for half of it on the average.
	flushEvery = 50 * time.Millisecond
)

// Compression names the codec of record batches.
type Compression string

// The codecs that Kafka knows and that are offered.
const (
	CompressionNone   Compression = "none"
	CompressionSnappy Compression = "snappy"
	CompressionLZ4    Compression = "lz4"
	CompressionZstd   Compression = "zstd"
)

// SASL names the mechanism and holds the credentials for the brokers.
type SASL struct {
	Mechanism string // plain, scram-sha-256 or scram-sha-512
	User      string
	Password  string
	// ReadPassword, if there is one, is asked at each log-in in place of
	// Password, so that a new password takes effect without a restart. Several
	// goroutines may call it at once.
	ReadPassword func() (string, error)
}

// Dialer opens a connection to a broker's host:port.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// Options configure a Log. Only Brokers, Logger and Registerer are required;
// zero means the default everywhere else.
type Options struct {
	Brokers     []string // host:port of any brokers; the others are learnt from them
	Topic       string
	Partitions  int         // of the topic, if it has to be created
	Compression Compression // default none

	SASL *SASL
	TLS  *tls.Config // ServerName is set to the broker's host if empty
	Dial Dialer      // default: TCP
	// OneBroker says that Dial reaches the only broker under the one name in
	// Brokers; the address that the broker has for itself is of no use here.
	OneBroker bool

	// MaxPendingBytes bounds the records that are held in memory, each counted
	// with its key and 32 bytes of framing. Append waits when it is reached.
	MaxPendingBytes int64
	// MaxRecordBytes bounds one record with its key and framing. Zero means what
	// the topic's max.message.bytes allows, and DefaultMaxRecordBytes until that
	// is learnt.
	MaxRecordBytes int

	SpoolOptions

	FlushTimeout   time.Duration // at the end, for what is still pending
	RequestTimeout time.Duration // of each dial and each request to a broker

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// SpoolOptions say where records go while Kafka is away.
type SpoolOptions struct {
	// SpoolDir belongs to one process at a time and is made if it is not there.
	// Empty: records are held in memory only.
	SpoolDir string
	// SpoolMaxBytes bounds all files of the spool.
	SpoolMaxBytes int64

	spoolDisk spoolDisk // tests have it fail; default: the real one
	bootID    [16]byte  // of the machine
}

// withDefaults returns a copy in which nothing optional is zero.
func (o Options) withDefaults() Options {
	setDefault(&o.Topic, DefaultTopic)
	setDefault(&o.Partitions, DefaultPartitions)
	setDefault(&o.Compression, CompressionNone)
	setDefault(&o.MaxPendingBytes, DefaultMaxPendingBytes)
	setDefault(&o.SpoolMaxBytes, DefaultSpoolMaxBytes)
	setDefault(&o.spoolDisk, spoolDisk(osDisk{}))
	setDefault(&o.bootID, machineBoot())
	setDefault(&o.FlushTimeout, DefaultFlushTimeout)
	setDefault(&o.RequestTimeout, DefaultRequestTimeout)
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate names the first field that cannot be used. It expects defaults to be set.
func (o *Options) validate() error {
	if len(o.Brokers) == 0 {
		return errors.New("recordlog: Brokers: at least one host:port is needed")
	}
	for _, b := range o.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			return fmt.Errorf("recordlog: Brokers: %q is not host:port: %w", b, err)
		}
	}
	if o.SASL != nil {
		if _, err := o.SASL.mechanism(); err != nil {
			return fmt.Errorf("recordlog: SASL: %w", err)
		}
	}
	if _, err := newCompressor(o.Compression); err != nil {
		return fmt.Errorf("recordlog: Compression: %w", err)
	}
	switch {
	case o.OneBroker && len(o.Brokers) != 1:
		return fmt.Errorf("recordlog: Brokers: OneBroker goes with one, not %d", len(o.Brokers))
	case o.Partitions < 0:
		return fmt.Errorf("recordlog: Partitions: %d is negative", o.Partitions)
	case o.MaxRecordBytes != 0 && o.MaxRecordBytes < 1024:
		return fmt.Errorf("recordlog: MaxRecordBytes: %d is below 1024", o.MaxRecordBytes)
	case o.MaxPendingBytes < int64(cmp.Or(o.MaxRecordBytes, DefaultMaxRecordBytes)):
		return fmt.Errorf("recordlog: MaxPendingBytes: %d is below MaxRecordBytes (%d)", o.MaxPendingBytes, cmp.Or(o.MaxRecordBytes, DefaultMaxRecordBytes))
	case o.SpoolMaxBytes < 0 || o.SpoolDir != "" && o.SpoolMaxBytes < minSpoolBytes:
		return fmt.Errorf("recordlog: SpoolMaxBytes: %d is below %d", o.SpoolMaxBytes, minSpoolBytes)
	case o.SpoolDir != "" && !filepath.IsLocal(o.Topic):
		return fmt.Errorf("recordlog: Topic: %q is no name of a topic", o.Topic)
	case o.FlushTimeout < 0 || o.RequestTimeout < 0:
		return errors.New("recordlog: FlushTimeout and RequestTimeout must not be negative")
	case o.Logger == nil:
		return errors.New("recordlog: Logger is required")
	case o.Registerer == nil:
		return errors.New("recordlog: Registerer is required")
	}
	return nil
}
