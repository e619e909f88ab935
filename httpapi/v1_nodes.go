// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"muster/fleet"
	"muster/internal/apiv1"
)

const (
	// nodeWait bounds how long other nodes are waited for.
	nodeWait = 2 * time.Second
	// nodesAsked bounds how many are asked at once.
	nodesAsked = 64
	// reportLate is the age of a node's load report, one a second, from which on
	// the node is not counted as alive, although gossip takes longer to say so.
	reportLate = 4 * time.Second

	roleNone = "none"
)

// nodeView is what is known about one node: from gossip, from the store's
// members, and by its own answer.
type nodeView struct {
	member   fleet.Member // the zero value if gossip does not know it
	server   fleet.Server // the zero value if it is not a member of the store
	state    fleet.NodeState
	marked   bool // an operator wants it empty
	self     bool
	alive    bool
	asked    bool
	answered bool
}

func (v *nodeView) id() string { return cmp.Or(v.server.ID, v.member.ServerID) }

func (v *nodeView) name() string { return cmp.Or(v.member.NodeID, v.server.Name) }

// key tells apart a node and its predecessor of the same name, whose data
// directory is lost.
func (v *nodeView) key() string { return v.name() + "~" + v.id() }

func (v *nodeView) role() string {
	switch {
	case v.server.ID == "":
		return roleNone
	case v.server.Leader:
		return "leader"
	case v.server.Voter:
		return "voter"
	}
	return "non-voter"
}

func (v *nodeView) applied() uint64 {
	if v.answered {
		return v.state.Applied
	}
	return max(v.member.Load.Applied, v.server.Applied)
}

// nodeViews joins gossip and the store's members, in the order of key.
func (a *API) nodeViews() ([]nodeView, error) {
	own := a.opts.State.Status.Status()
	servers := []fleet.Server{{ID: own.ServerID, Name: a.opts.Node.Name, Voter: true, Leader: own.Leader == own.ServerID}}
	if a.opts.Cluster != nil {
		var err error
		if servers, err = a.opts.Cluster.Servers(); err != nil {
			return nil, err
		}
	}
	now := a.opts.Now()
	byID := make(map[string]*nodeView)
	for _, m := range a.opts.Directory.Members.Members() {
		late := !m.ReportedAt.IsZero() && now.Sub(m.ReportedAt) > reportLate
		byID[cmp.Or(m.ServerID, m.NodeID)] = &nodeView{member: m, alive: m.Alive && !late}
	}
	for _, s := range servers {
		if byID[s.ID] == nil {
			byID[s.ID] = &nodeView{}
		}
		byID[s.ID].server = s
	}
	views := make([]nodeView, 0, len(byID))
	for id, v := range byID {
		if id == own.ServerID {
			v.self, v.alive = true, true
			v.server.Applied = max(v.server.Applied, own.Applied)
		}
		v.marked = a.opts.Drains != nil && a.opts.Drains.Draining(id)
		views = append(views, *v)
	}
	slices.SortFunc(views, func(x, y nodeView) int { return cmp.Compare(x.key(), y.key()) })
	return views, nil
}

// askNodes asks the live ones how far they are, and names those that do not
// answer in time.
func (a *API) askNodes(ctx context.Context, views []nodeView) (missing []string) {
	if a.opts.NodeState == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, nodeWait)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(nodesAsked)
	for i := range views {
		v := &views[i]
		if v.asked = v.alive; !v.asked {
			continue
		}
		g.Go(func() error {
			state, err := a.opts.NodeState(ctx, v.id())
			v.state, v.answered = state, err == nil
			return nil
		})
	}
	_ = g.Wait() // no part fails: what did not answer is named
	for i := range views {
		if v := &views[i]; v.asked && !v.answered {
			missing = append(missing, v.name())
		}
	}
	return missing
}

func (a *API) v1Nodes(w http.ResponseWriter, r *http.Request, _ *call) error {
	values, err := listQuery(r)
	if err != nil {
		return err
	}
	limit, after, err := limitAfter(values)
	if err != nil {
		return err
	}
	views, err := a.nodeViews()
	if err != nil {
		return err
	}
	page := keyPageFrom(views, limit, after, func(v nodeView) string { return v.key() })
	missing := a.askNodes(r.Context(), page.Items) // a part of views
	show := a.nodeShower(views)
	shown := apiv1.Page[apiv1.Node]{Items: convert(page.Items, show), Next: page.Next}
	return respond(w, http.StatusOK, pageMissing(w, shown, missing))
}

func (a *API) v1Node(w http.ResponseWriter, r *http.Request, c *call) error {
	views, err := a.nodeViews()
	if err != nil {
		return err
	}
	return a.respondNode(w, r, views, c.param("id"))
}

// respondNode answers one node, which is asked how far it is.
func (a *API) respondNode(w http.ResponseWriter, r *http.Request, views []nodeView, nameOrID string) error {
	v, err := findNode(views, nameOrID)
	if err != nil {
		return err
	}
	one := []nodeView{*v}
	noteMissing(w, a.askNodes(r.Context(), one))
	*v = one[0]
	return respond(w, http.StatusOK, a.nodeShower(views)(*v))
}

// findNode finds a node by its server ID, or by its name: of several with that
// name the one that lives, else a member.
func findNode(views []nodeView, nameOrID string) (*nodeView, error) {
	rank := func(v *nodeView) int {
		switch {
		case v.id() == nameOrID:
			return 4
		case v.name() != nameOrID:
			return 0
		case v.alive:
			return 3
		case v.server.ID != "":
			return 2
		}
		return 1
	}
	var found *nodeView
	best := 0
	for i := range views {
		if r := rank(&views[i]); r > best {
			found, best = &views[i], r
		}
	}
	if found == nil {
		return nil, fleet.Refuse(fleet.CodeNotFound, "no node is called %q; GET /v1/nodes lists them", clip(nameOrID))
	}
	return found, nil
}

func (a *API) v1NodeState(w http.ResponseWriter, r *http.Request, c *call) error {
	views, err := a.nodeViews()
	if err != nil {
		return err
	}
	v, err := findNode(views, c.param("id"))
	if err != nil {
		return err
	}
	shown := apiv1.NodeState{Node: v.name(), ServerID: v.id()}
	if a.opts.NodeState == nil {
		if !v.self {
			return silentNode(v, fleet.ErrUnavailable)
		}
		s := a.opts.State.Status.Status()
		shown.Applied, shown.Hash, shown.Term, shown.Ready = s.Applied, s.Hash, s.Term, true
		return respond(w, http.StatusOK, shown)
	}
	ctx, cancel := context.WithTimeout(r.Context(), nodeWait)
	defer cancel()
	s, err := a.opts.NodeState(ctx, v.id())
	if err != nil {
		a.log.Debug("a node did not say how far it is", "node", v.name(), "server", v.id(), "error", err)
		noteMissing(w, []string{v.name()})
		return silentNode(v, err)
	}
	shown.Applied, shown.Hash, shown.Term, shown.Ready = s.Applied, s.Hash, s.Term, s.Ready
	return respond(w, http.StatusOK, shown)
}

// silentNode refuses what only another node could answer, which did not.
func silentNode(v *nodeView, err error) error {
	o := outcome{fleet.ErrUnavailable, 503, "unavailable", 503, elkeidUnavailable, ""}
	why := "cannot be reached from here"
	if errors.Is(err, fleet.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
		o = outcome{fleet.ErrTimeout, 504, "timeout", 504, elkeidTimeOut, ""}
		why = fmt.Sprintf("did not answer within %d s", int(nodeWait.Seconds()))
	}
	advice := "it may be overloaded or cut off: ask it itself, or see its log"
	if !v.alive {
		advice = "it is dead for all that this node hears: start it, or see its log"
	}
	return &special{outcome: o, detail: fmt.Sprintf("node %s (server %s) %s; %s", v.name(), v.id(), why, advice)}
}

// nodeShower returns what shows a node; all are needed to tell who is behind.
func (a *API) nodeShower(all []nodeView) func(nodeView) apiv1.Node {
	highest, now := a.applied(), a.opts.Now()
	names := make(map[string]string, len(all))
	members := make([]fleet.Member, len(all))
	for i := range all {
		highest = max(highest, all[i].applied())
		names[all[i].id()] = all[i].name()
		members[i] = all[i].member
		members[i].Alive = all[i].alive
	}
	shares := make(map[string]float64, len(all))
	for i, share := range fleet.FairShares(members, now) {
		shares[all[i].key()] = share
	}
	ahead := outlookOf(all, now)
	return func(v nodeView) apiv1.Node {
		m, l, whyNot := v.member, v.member.Load, ahead.whyNotStop(&v)
		n := apiv1.Node{
			Name: v.name(), ServerID: v.id(), Degraded: nonNil(v.faults(now)), Role: v.role(), State: v.showState(), Kafka: v.kafka(),
			Draining: v.marked, SafeToStop: len(whyNot) == 0, WhyNot: whyNot, FairShare: shares[v.key()],
			Term: v.state.Term, Follows: cmp.Or(names[v.state.Leader], v.state.Leader), Applied: v.applied(),
			Self: v.self, Version: m.Version, Format: m.Format, Zone: m.Zone,
			ReportedAt: inUTC(m.ReportedAt), StartedAt: inUTC(m.Started), CertificateEnd: inUTC(v.state.CertificateEnd),
			Load: apiv1.NodeLoad{
				Sessions: l.Sessions, Limit: l.Limit, RecordsPerSecond: l.RecordsPerSecond, KafkaBacklog: l.KafkaBacklog,
				CPUPermille: l.CPUPermille, MemoryPermille: l.MemoryPermille, SpoolPermille: l.SpoolPermille, Applied: l.Applied,
			},
			Addresses: apiv1.Addresses{Agents: m.AgentAddr, HTTP: m.HTTPAddr, HTTPS: m.HTTPSAddr, SD: m.SDAddr, Node: cmp.Or(m.NodeAddr, v.server.Address)},
		}
		if v.server.ID != "" {
			n.Lag = highest - v.applied()
		}
		if v.alive && !m.Started.IsZero() {
			n.UptimeSeconds = int64(now.Sub(m.Started) / time.Second)
		}
		return n
	}
}

func inUTC(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

func (v *nodeView) showState() string {
	switch {
	case !v.alive:
		return "dead"
	case v.draining():
		return "draining"
	case !v.member.Load.Ready:
		return "not-ready"
	}
	return "ready"
}

func (v *nodeView) kafka() string {
	switch {
	case !v.alive || v.member.ReportedAt.IsZero():
		return "unknown"
	case v.member.Load.KafkaAway:
		return "away"
	}
	return "ok"
}

// faults are what does not work as it should.
func (v *nodeView) faults(now time.Time) (faults []string) {
	if !v.alive {
		if v.member.Alive {
			return []string{fmt.Sprintf("it has not reported for %d s", int(now.Sub(v.member.ReportedAt).Seconds()))}
		}
		return nil
	}
	if v.asked && !v.answered {
		faults = append(faults, "it does not answer other nodes")
	}
	if v.member.Load.KafkaAway {
		faults = append(faults, "kafka is away")
	}
	if v.member.Load.Leaderless {
		faults = append(faults, "it hears no leader")
	}
	return faults
}
