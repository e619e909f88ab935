// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"muster/fleet"
)

// Defaults of Options.
const (
	DefaultMaxBodyBytes   = 1 << 20
	DefaultRequestTimeout = 30 * time.Second
)

// Options is all that an API needs. State, Live, Directory, Native, Passwords, Health, Logger,
// Registerer and Gatherer are required.
type Options struct {
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Gatherer   prometheus.Gatherer // what GET /metrics shows
	// Now is the clock of tokens, signatures and throttles; nil means time.Now.
	// Its time zone is the one in which Elkeid's routes write and read moments.
	Now func() time.Time

	State     State
	Live      Live
	Directory Directory
	// Native is what only the routes of /v1 need.
	Native    Native
	Passwords Passwords
	// Health is asked at each GET /readyz and GET /; it must not block.
	Health func() Health
	// Starting says why the replicated state must not be read on this node now;
	// empty: it may be. It is asked at each request and must not block. nil means
	// that it always may be.
	Starting func() string
	Node     NodeInfo

	// AllowPlainHTTP lets credentials of /v1 come over plain HTTP from hosts
	// other than this one.
	AllowPlainHTTP bool
	Others
	Limits
}

// Limits bound requests.
type Limits struct {
	// Busy tells whether the node is short of processor time, so that only one
	// query of the fleet should run at a time. It is asked at each of them and must
	// not block. nil means never.
	Busy func() bool
	// MaxBodyBytes bounds a request's body; 0 means DefaultMaxBodyBytes.
	MaxBodyBytes int64
	// RequestTimeout bounds a request; 0 means DefaultRequestTimeout.
	RequestTimeout time.Duration
}

// State is the replicated state, cut into the small parts that handlers use.
// All fields are required; in a node one store serves them all.
type State struct {
	Users       UserStore
	Tokens      TokenStore
	Keys        KeyStore
	Config      ConfigStore
	Tags        TagStore
	Agents      AgentStore
	Tasks       TaskStore
	TaskControl TaskControl
	Status      StatusStore
}

// Live is what only this node's memory knows: the agents' streams.
type Live struct {
	Sessions Sessions
	Streams  Streams
}

// Directory is what gossip knows. Both fields are required.
type Directory struct {
	Members  Members
	Services Services
}

// Members is the cluster as gossip sees it.
type Members interface {
	// Pick returns up to count members in the order in which an agent should
	// try them, and notes that it was sent there. It is never empty while a
	// node lives. The members are shared and must not be changed.
	Pick(count int) []*fleet.Member
	Members() []fleet.Member
}

// Services is the registry of services that are not members.
type Services interface {
	Register(s fleet.Service) (fleet.Service, error)
	// Evict tells whether the service was known.
	Evict(k fleet.ServiceKey) bool
	// Services lists those of a name, or all if it is empty.
	Services(name string) []fleet.Service
}

// UserStore keeps the accounts. Errors are refusals of fleet.
type UserStore interface {
	Users() ([]fleet.User, error)
	User(name string) (fleet.User, error)
	CreateUser(ctx context.Context, u fleet.User) error
	UserChanger
}

// UserChanger changes accounts. A change of password or level revokes the
// user's tokens, except the one whose ID is keepTokenID.
type UserChanger interface {
	UpdateUser(ctx context.Context, name string, change fleet.UserChange, keepTokenID string) error
	DeleteUsers(ctx context.Context, names []string) error
}

// TokenStore keeps the bearer tokens by the hash of their text.
type TokenStore interface {
	TokenByHash(hash string) (fleet.Token, error)
	CreateToken(ctx context.Context, t fleet.Token) error
	RevokeToken(ctx context.Context, id string) error
	TokenLister
}

// TokenLister lists tokens and notes their use.
type TokenLister interface {
	Tokens(user string) ([]fleet.Token, error)
	TouchToken(ctx context.Context, id string, at int64) error
}

// KeyStore keeps the AK/SK pairs.
type KeyStore interface {
	Keys() ([]fleet.AccessKey, error)
	KeySecret(accessKey string) (secret []byte, scope fleet.KeyScope, err error)
	AddKey(ctx context.Context, key fleet.AccessKey, secret []byte) error
	DeleteKey(ctx context.Context, accessKey string) error
}

// ConfigStore keeps what agents should run.
type ConfigStore interface {
	DefaultConfig() (fleet.DefaultConfig, error)
	SetDefaultConfig(ctx context.Context, c fleet.DefaultConfig) (fleet.DefaultConfig, error)
	Desired(agentID string) (fleet.Desired, error)
}

// TagStore keeps the tags of agents.
type TagStore interface {
	TagAgents(ctx context.Context, ids []string, add, remove []string) (changed int, err error)
	Tags() ([]fleet.TagCount, error)
	AgentsByTag(tag string) ([]string, error)
}

// AgentStore is the replicated inventory.
type AgentStore interface {
	Agent(id string) (fleet.Agent, error)
	// Agents returns up to limit (at most 5000) agents by ID, after the given one.
	Agents(after string, limit int) ([]fleet.Agent, error)
	AgentCount() int
}

// TaskStore reads tasks and makes them.
type TaskStore interface {
	CreateTask(ctx context.Context, t fleet.NewTask, agentIDs []string) (fleet.Task, error)
	Task(id string) (fleet.Task, error)
	// Tasks returns up to limit tasks, newest first, after the given one.
	Tasks(after string, limit int) ([]fleet.Task, error)
	// SubTasks returns up to limit parts of a task by number, after the given one.
	SubTasks(taskID string, after uint32, limit int) ([]fleet.SubTask, error)
}

// TaskControl moves tasks on.
type TaskControl interface {
	RunTask(ctx context.Context, id, jobID string, percent float64, concurrence int) (fleet.Task, error)
	CancelTask(ctx context.Context, id string) (fleet.Task, error)
	FailTask(ctx context.Context, id, reason string) error
}

// StatusStore tells how the replicated state is doing on this node.
type StatusStore interface {
	Status() fleet.StoreStatus
}

// Sessions are the live streams of agents.
type Sessions interface {
	Session(agentID string) (fleet.Session, bool)
	SessionIDs() []string
	SessionCount() int
	Sessions() []fleet.Session
}

// Streams acts on the live streams of agents.
type Streams interface {
	// Reset closes the agents' streams and says per agent how that went.
	Reset(agentIDs []string) map[string]error
	// AwaitWritten is called before the task is created. wait returns nil once
	// the task's command is written to the stream; cancel makes sure that it
	// will not be written from now on, and says whether it was already; it is
	// called once at the end, after a success too.
	AwaitWritten(taskID string) (wait func(ctx context.Context) error, cancel func() (written bool))
}

// Passwords hashes and checks passwords; see internal/password.
type Passwords interface {
	Hash(ctx context.Context, password string) (string, error)
	// Verify compares in constant time. With an empty hash it takes as long and
	// answers false, so that an unknown user cannot be told by the clock.
	Verify(ctx context.Context, hash, password string) (bool, error)
}

// NodeInfo is what a node says about itself without being asked for a
// credential.
type NodeInfo struct {
	Name string
	// Version, Commit, BuiltAt and CI are those of the build; all may be empty.
	Version, Commit, BuiltAt, CI string
}

// Health is the node's own judgement.
type Health struct {
	// Ready is true while agents can deliver to this node.
	Ready bool
	// Reasons says what is missing while Ready is false, Degraded what is not
	// as it should be while it is true.
	Reasons  []string
	Degraded []string
}

func (o *Options) setDefaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxBodyBytes == 0 {
		o.MaxBodyBytes = DefaultMaxBodyBytes
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = DefaultRequestTimeout
	}
	if o.Busy == nil {
		o.Busy = func() bool { return false }
	}
	if o.Starting == nil {
		o.Starting = func() string { return "" }
	}
}

func (o *Options) validate() error {
	s := o.State
	for _, f := range []struct {
		field string
		given bool
	}{
		{"logger", o.Logger != nil},
		{"registerer", o.Registerer != nil},
		{"gatherer", o.Gatherer != nil},
		{"state.users", s.Users != nil},
		{"state.tokens", s.Tokens != nil},
		{"state.keys", s.Keys != nil},
		{"state.config", s.Config != nil},
		{"state.tags", s.Tags != nil},
		{"state.agents", s.Agents != nil},
		{"state.tasks", s.Tasks != nil},
		{"state.task_control", s.TaskControl != nil},
		{"state.status", s.Status != nil},
		{"live.sessions", o.Live.Sessions != nil},
		{"live.streams", o.Live.Streams != nil},
		{"directory.members", o.Directory.Members != nil},
		{"directory.services", o.Directory.Services != nil},
		{"native.report", o.Native.Report != nil},
		{"passwords", o.Passwords != nil},
		{"health", o.Health != nil},
	} {
		if !f.given {
			return fleet.Invalid("httpapi options: "+f.field, "is missing")
		}
	}
	if o.MaxBodyBytes < 0 {
		return fleet.Invalid("httpapi options: max_body_bytes", "%d is negative", o.MaxBodyBytes)
	}
	if o.RequestTimeout < 0 {
		return fleet.Invalid("httpapi options: request_timeout", "%s is negative", o.RequestTimeout)
	}
	return nil
}
