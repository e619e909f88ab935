// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package kafka_test

import (
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"muster/recordlog"
	"muster/test/kafka"
	"muster/test/process"
)

// testOneOfThreeFull fills the disk of the third broker, which ends for want of
// it. The other two go on.
func testOneOfThreeFull(t *testing.T, c *kafka.Cluster, disk *kafka.Disk, noDisk error) {
	if noDisk != nil {
		t.Skip(noDisk)
	}
	w := write(t, c, nil)
	stop := w.load(faultRate)
	w.flows()
	b := c.Brokers[2]
	fillUp(t, disk, b)
	w.others(c, b)
	if err := disk.Free(); err != nil {
		t.Fatal(err)
	}
	b.Start()
	c.WaitInSync(w.topic)
	stop()
	w.undoubled(c)
}

// testFull fills the disk of the only broker.
func testFull(t *testing.T, c *kafka.Cluster, disk *kafka.Disk, noDisk error) {
	if noDisk != nil {
		t.Skip(noDisk)
	}
	w := write(t, c, nil)
	stop := w.load(faultRate)
	w.flows()
	fillUp(t, disk, c.Brokers[0])
	process.Eventually(t, settleWithin, "the writer knows", func() error {
		if w.Status().Up {
			return errors.New("it is up")
		}
		return nil
	})
	t.Log(w.Status().LastError)
	if err := disk.Free(); err != nil {
		t.Fatal(err)
	}
	c.Brokers[0].Start()
	w.flows()
	stop()
	w.undoubled(c)
}

// fillUp leaves a broker no room and waits for its end.
func fillUp(t *testing.T, disk *kafka.Disk, b *kafka.Broker) {
	t.Helper()
	if err := disk.Fill(); err != nil {
		t.Fatal(err)
	}
	process.Eventually(t, settleWithin, "the broker ends for want of room", func() error {
		if !b.Ended() {
			return errors.New("it runs")
		}
		return nil
	})
	b.Kill()
}

// testCertificateExpired has the broker show a certificate that is over, then
// one that is valid.
func testCertificateExpired(t *testing.T, c *kafka.Cluster) {
	w := write(t, c, func(o *recordlog.Options) {
		o.Brokers, o.TLS = c.Addrs(kafka.TLS), &tls.Config{RootCAs: c.Authority.Pool()}
	})
	stop := w.load(faultRate)
	w.flows()
	b := c.Brokers[0]
	b.Stop()
	b.SetCertificate(c.Authority.Server(-time.Minute))
	b.Start()
	w.lastErrorHas("renew the broker's certificate")
	b.Stop()
	b.SetCertificate(c.Authority.Server(time.Hour))
	b.Start()
	w.flows()
	stop()
	w.undoubled(c)
}
