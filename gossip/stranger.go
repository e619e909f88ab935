// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"log/slog"
	"strings"
)

// libraryLog takes memberlist's own log, which is of use to developers only,
// and picks out what operators must know and memberlist tells nowhere else: that
// somebody speaks with another key.
type libraryLog struct {
	slog.Handler
	g *Mesh
}

// Enabled lets every line come to Handle.
func (libraryLog) Enabled(context.Context, slog.Level) bool { return true }

// Handle takes one line.
func (l libraryLog) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "no installed keys could decrypt") || strings.Contains(r.Message, "Decrypt packet failed") {
		l.g.metrics.ignore(reasonOtherKey)
		if _, from, ok := strings.Cut(r.Message, "from="); ok && l.g.strangers.now() {
			l.g.logger.Warn("gossip with another cluster secret is ignored: if it comes from a node of this cluster, give every node the same --cluster-secret or --cluster-secret-file",
				"from", from)
		}
	}
	if !l.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}
