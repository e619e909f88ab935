// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent_test

import (
	"testing"
	"testing/synctest"

	"muster/internal/simagent"
)

// TestExactCount: agents times records, all numbered, all there.
func TestExactCount(t *testing.T) {
	for _, compression := range []string{"snappy", "gzip", "zstd", "identity"} {
		t.Run(compression, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const agents, records = 4, 2500
				w := newWorld(t)
				c := w.center("10.1.0.1", simagent.ServerName, nil)
				w.sd(sdHost, lists("10.1.0.1"))
				opts := w.options()
				opts.Agents, opts.Compression = agents, compression
				opts.Load.Records = records
				f := w.start(opts)
				if err := f.wait(); err != nil {
					t.Fatal(err)
				}
				tally := simagent.NewTally(f.RunID())
				for _, id := range f.IDs() {
					tally.Expect(id, records)
				}
				for _, m := range c.got() {
					for _, r := range m.raw.GetRecords() {
						if numbered := tally.Add(m.raw.GetAgentId(), r.GetBody()); numbered != (r.GetDataType() == 59) {
							t.Fatalf("record of type %d: numbered %v", r.GetDataType(), numbered)
						}
					}
				}
				if got, want := tally.Total(), (simagent.Counts{Received: agents * records}); got != want {
					t.Errorf("tally %+v, want %+v", got, want)
				}
				s := f.Summary()
				if s.Agents.Finished != agents || s.Agents.Unclean != 0 || s.Records.Sent != agents*records || s.Records.Dropped != 0 {
					t.Errorf("summary:\n%v", s)
				}
			})
		})
	}
}
