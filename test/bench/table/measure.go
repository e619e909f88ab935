// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"muster/test/bench/broker"
)

// point is what a server has used and the broker has got at a moment.
type point struct {
	at      time.Time
	cpu     float64
	records int64
	book    broker.Book
}

func take(s *server, b *brokerChild) (p point, err error) {
	stats, err := b.stats()
	if err != nil {
		return p, err
	}
	p.records, p.book, p.at = stats.Records, stats.Book, time.Now()
	p.cpu, err = s.CPU()
	return p, err
}

// span is what was between two points.
type span struct {
	seconds, cpu float64
	records      int64
	delays       broker.Book // of the span's records
}

func (s span) perMillion() float64 { return s.cpu / float64(max(s.records, 1)) * 1e6 }
func (s span) perSecond() float64  { return float64(s.records) / s.seconds }

// window measures a server for so long.
func (e *Env) window(ctx context.Context, name string, s *server, b *brokerChild, d time.Duration) (span, error) {
	first, err := take(s, b)
	if err != nil {
		return span{}, err
	}
	profiled := e.profileOf(ctx, name, s, d)
	if err := pause(ctx, d); err != nil {
		return span{}, err
	}
	last, err := take(s, b)
	profiled()
	return span{last.at.Sub(first.at).Seconds(), last.cpu - first.cpu, last.records - first.records, last.book}, err
}

// profileOf profiles a server for so long, if that is wanted and it can be asked
// for profiles; the function waits for the end.
func (e *Env) profileOf(ctx context.Context, name string, s *server, d time.Duration) func() {
	var profiling sync.WaitGroup
	if e.opts.Profile != "" && s.pprof != "" {
		if s.node == nil {
			name += "-floor"
		}
		profiling.Go(func() { e.profile(ctx, name, s.pprof, d) })
	}
	return profiling.Wait
}

// profile writes a CPU profile of that window, and the heap's and the goroutines' at
// its end.
func (e *Env) profile(ctx context.Context, name, addr string, d time.Duration) {
	for _, q := range []struct{ kind, query string }{
		{"cpu", "profile?seconds=" + strconv.Itoa(max(1, int(d.Seconds())))}, {"heap", "heap?gc=1"}, {"goroutine", "goroutine"},
	} {
		file := filepath.Join(e.opts.Profile, name+"."+q.kind+".pprof")
		if err := download(ctx, "http://"+addr+"/debug/pprof/"+q.query, file); err != nil {
			e.log.Warn("no profile", "kind", q.kind, "error", err)
		}
	}
}

func download(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("create a profile: %w", err)
	}
	if _, err := io.Copy(f, res.Body); err != nil {
		_ = f.Close()
		return fmt.Errorf("write a profile: %w", err)
	}
	return f.Close()
}

// watch notes the most anonymous memory that a process has, until its function
// is called.
func watch(s *server) func() int64 {
	done := make(chan struct{})
	var most int64
	var watching sync.WaitGroup
	watching.Go(func() {
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			if rss, err := s.RssAnon(); err == nil { // it may have ended
				most = max(most, rss)
			}
			select {
			case <-done:
				return
			case <-ticker.C:
			}
		}
	})
	return func() int64 {
		close(done)
		watching.Wait()
		return most
	}
}
