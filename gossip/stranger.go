// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"log"
	"log/slog"
	"strings"
)

// libraryLog takes memberlist's own log, which is of use to developers only,
// and picks out what operators must know and memberlist tells nowhere else: that
// somebody speaks with another key.
type libraryLog struct {
	g     *Mesh
	debug *log.Logger
}

func newLibraryLog(g *Mesh) *log.Logger {
	return log.New(&libraryLog{g: g, debug: slog.NewLogLogger(g.logger.Handler(), slog.LevelDebug)}, "", 0)
}

// Write takes one line.
func (l *libraryLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if strings.Contains(text, "no installed keys could decrypt") || strings.Contains(text, "Decrypt packet failed") {
		l.g.metrics.ignore(reasonOtherKey)
		if _, from, ok := strings.Cut(text, "from="); ok && l.g.strangers.now() {
			l.g.logger.Warn("gossip with another cluster secret is ignored: if it comes from a node of this cluster, give every node the same --cluster-secret or --cluster-secret-file",
				"from", from)
		}
	}
	l.debug.Println(text)
	return len(line), nil
}
