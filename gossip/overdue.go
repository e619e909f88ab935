// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/memberlist"

	"muster/fleet"
)

// A report that does not come is asked for: packets get lost, and without a
// report a healthy node would be left out of the answers to agents. Any node that
// has it may tell it, and says how old it is, so that nobody seems to live for
// longer than its own reports say. While no packet is lost, nothing is asked.
const (
	// askAfter, for the profile lan, is when a report is overdue: more than the
	// interval, so that one that is merely late is not asked for.
	askAfter = 1250 * time.Millisecond
	// askInterval is the time between two questions. Until fleet.MaxLoadAge there
	// are eight; of a node that is not heard by then nothing is asked any more.
	askInterval = 200 * time.Millisecond
	// askPeers is how many random nodes are asked each time.
	askPeers = 3
	// maxBundleBytes is what goes into one packet.
	maxBundleBytes = 1200
	// maxQuestions wait to be answered; more are dropped and counted: they come
	// again, and others are asked, too.
	maxQuestions = 64
)

// wanted is a node and the report that the asker has of it.
type wanted struct {
	node     string
	sequence uint64
}

// question is what another node lacks.
type question struct {
	asker string
	nodes []wanted
}

// known is a report and its age.
type known struct {
	node string
	load fleet.Load
	age  time.Duration
}

// ask asks other nodes for reports that do not come, and answers when they ask.
func (g *Mesh) ask(ctx context.Context, list *memberlist.Memberlist) error {
	ticker := time.NewTicker(g.opts.Profile.scale(askInterval))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case q := <-g.questions:
			g.answer(list, q)
		case <-ticker.C:
			g.askForOverdue(list)
		}
	}
}

func (g *Mesh) askForOverdue(list *memberlist.Memberlist) {
	nodes := g.view.overdue(time.Now(), g.opts.Profile.scale(askAfter))
	if len(nodes) == 0 {
		return
	}
	g.metrics.asked.Add(float64(len(nodes)))
	message := encodeQuestion(question{asker: g.opts.Self.NodeID, nodes: nodes})
	peers := g.view.peers()
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	g.sendTo(list, message, peers[:min(askPeers, len(peers))]...)
}

// answer tells the asker what this node knows and the asker does not.
func (g *Mesh) answer(list *memberlist.Memberlist, q question) {
	peer, ok := g.view.peer(q.asker)
	if !ok || g.yields.Load() {
		return
	}
	message := []byte{kindReports}
	for _, k := range g.view.newer(q.nodes, time.Now()) {
		if len(message)+reportBytes(k) > maxBundleBytes {
			g.sendTo(list, message, peer)
			message = []byte{kindReports}
		}
		message = appendReport(message, k)
	}
	if len(message) > 1 {
		g.sendTo(list, message, peer)
	}
}

// encodeQuestion leaves out what does not fit a packet.
func encodeQuestion(q question) []byte {
	b := append([]byte{kindQuestion, byte(len(q.asker))}, q.asker...)
	for _, w := range q.nodes {
		if len(b)+1+len(w.node)+8 > maxBundleBytes {
			break
		}
		b = append(append(b, byte(len(w.node))), w.node...)
		b = binary.BigEndian.AppendUint64(b, w.sequence)
	}
	return b
}

// decodeQuestion reads what follows the kind.
func decodeQuestion(b []byte) (q question, err error) {
	if q.asker, b, err = cutName(b); err != nil {
		return question{}, err
	}
	for len(b) > 0 {
		var w wanted
		if w.node, b, err = cutName(b); err != nil {
			return question{}, err
		}
		if len(b) < 8 {
			return question{}, fmt.Errorf("a question is cut off: %w", fleet.ErrInvalid)
		}
		w.sequence, b = binary.BigEndian.Uint64(b), b[8:]
		q.nodes = append(q.nodes, w)
	}
	return q, nil
}

func reportBytes(k known) int { return 1 + len(k.node) + 2 + 1 + fleet.LoadBytes }

func appendReport(b []byte, k known) []byte {
	b = append(append(b, byte(len(k.node))), k.node...)
	b = binary.BigEndian.AppendUint16(b, uint16(min(k.age.Milliseconds(), 1<<16-1))) //nolint:gosec // bounded
	report := k.load.Encode()
	return append(append(b, byte(len(report))), report...)
}

// decodeReports reads what follows the kind.
func decodeReports(b []byte) (reports []known, err error) {
	for len(b) > 0 {
		var k known
		if k.node, b, err = cutName(b); err != nil {
			return nil, err
		}
		if len(b) < 3 || len(b) < 3+int(b[2]) {
			return nil, fmt.Errorf("reports are cut off: %w", fleet.ErrInvalid)
		}
		k.age = time.Duration(binary.BigEndian.Uint16(b)) * time.Millisecond
		end := 3 + int(b[2])
		if k.load, err = fleet.DecodeLoad(b[3:end]); err != nil {
			return nil, err
		}
		reports, b = append(reports, k), b[end:]
	}
	return reports, nil
}

// cutName cuts a name off, which stands behind its length.
func cutName(b []byte) (name string, rest []byte, err error) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return "", nil, fmt.Errorf("a name is cut off: %w", fleet.ErrInvalid)
	}
	end := 1 + int(b[0]) // not in a byte: a name may claim 255
	return string(b[1:end]), b[end:], nil
}
