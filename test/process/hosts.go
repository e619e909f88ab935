// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"os"
	"runtime"
	"testing"
)

// The ports of nodes that have an address of their own: muster's own.
const (
	portSD, portHTTP, portHTTPS = 8088, 6701, 6752
	portAgent, portNode         = 6751, 6760
	portGossip, portKafka       = 7946, 9092
)

// maxHosts is how many addresses a cluster has, its Kafka's and its strangers'
// included.
const maxHosts = 16

// loopback gives a cluster addresses of its own in 127.0.0.0/8 and starts its
// Kafka, which takes host 0. Ports that are free now may be some connection's
// when a killed node wants them back: connections leave from 127.0.0.1, so
// these stay. The process ID chooses the addresses, and among those the first
// sixteen whose Kafka can have its port.
func loopback(t testing.TB) (host func(i int) string, kafka *Kafka) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("clusters of processes need all of 127.0.0.0/8, which only Linux answers for")
	}
	pid := os.Getpid()
	var err error
	for block := range 15 {
		host = func(i int) string {
			if i < 0 || i >= maxHosts {
				t.Fatalf("host %d of at most %d", i, maxHosts)
			}
			return fmt.Sprintf("127.%d.%d.%d", 16+pid%211, pid/211%256, 1+block*maxHosts+i)
		}
		if kafka, err = tryKafka(t, hostPort(host(0), portKafka)); err == nil {
			return host, kafka
		}
	}
	t.Fatalf("this process has too many clusters at once: %v", err)
	return nil, nil
}

func hostPort(host string, port int) string { return fmt.Sprintf("%s:%d", host, port) }
