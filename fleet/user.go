// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"slices"
	"strings"
)

// Role is what a user may do.
type Role string

// The roles.
const (
	RoleAdmin       Role = "admin"
	RoleOperator    Role = "operator"
	RoleViewer      Role = "viewer"
	RoleTaskViewer  Role = "task-viewer" // a viewer who may run tasks of plugins
	RoleRuleEditor  Role = "rule-editor"
	RoleRuleReader  Role = "rule-reader"
	RoleResponder   Role = "responder"
	maxUserLevel         = 8
	maxUserNameSize      = 64
)

// Permission is one kind of thing that a route lets a caller do.
type Permission string

// The permissions. A route names the one that it needs.
const (
	PermSelf       Permission = "self"        // one's own account
	PermFleetRead  Permission = "fleet.read"  // agents, tags, config, tasks, nodes
	PermFleetWrite Permission = "fleet.write" // tags, config, streams, tasks for the agent itself
	PermTaskRun    Permission = "task.run"    // create, run and cancel tasks of plugins; see AgentCommand.Permission
	PermRuleRead   Permission = "rule.read"
	PermRuleWrite  Permission = "rule.write"
	PermAlertWrite Permission = "alert.write"
	PermAdmin      Permission = "admin" // users, keys, other people's tokens, nodes
)

// grants is the one table of who may do what.
var grants = map[Role][]Permission{
	RoleAdmin: {
		PermSelf, PermFleetRead, PermFleetWrite, PermTaskRun,
		PermRuleRead, PermRuleWrite, PermAlertWrite, PermAdmin,
	},
	RoleOperator:   {PermSelf, PermFleetRead, PermFleetWrite, PermTaskRun, PermRuleRead, PermAlertWrite},
	RoleViewer:     {PermSelf, PermFleetRead, PermRuleRead},
	RoleTaskViewer: {PermSelf, PermFleetRead, PermRuleRead, PermTaskRun},
	RoleRuleEditor: {PermSelf, PermFleetRead, PermRuleRead, PermRuleWrite},
	RoleRuleReader: {PermSelf, PermFleetRead, PermRuleRead},
	RoleResponder:  {PermSelf, PermFleetRead, PermRuleRead, PermAlertWrite},
}

// May tells whether the role grants the permission; an unknown role grants none.
func (r Role) May(p Permission) bool {
	return slices.Contains(grants[r], p)
}

// roleLevels gives each role the Elkeid level that new users of it get.
var roleLevels = map[Role]int{
	RoleAdmin: 0, RoleOperator: 2, RoleViewer: 3, RoleRuleEditor: 4,
	RoleRuleReader: 5, RoleResponder: 6, RoleTaskViewer: 7,
}

// Level returns the Elkeid level of the role; ok is false for an unknown one.
func (r Role) Level() (level int, ok bool) {
	level, ok = roleLevels[r]
	return level, ok
}

// RoleOfLevel returns the role of an Elkeid level, 0 to 8; ok is false outside.
func RoleOfLevel(level int) (r Role, ok bool) {
	switch level {
	case 0:
		return RoleAdmin, true
	case 1, 2:
		return RoleOperator, true
	case 3:
		return RoleViewer, true
	case 4:
		return RoleRuleEditor, true
	case 5:
		return RoleRuleReader, true
	case 6, maxUserLevel:
		return RoleResponder, true
	case 7:
		return RoleTaskViewer, true
	}
	return "", false
}

// User is an account of the API and the console.
type User struct {
	Name string `json:"username"`
	// Level is Elkeid's, 0 to 8; see RoleOfLevel.
	Level int `json:"level"`
	// PasswordHash is an argon2id string in PHC format; never shown.
	PasswordHash string `json:"password_hash"`
	Avatar       string `json:"avatar,omitempty"`
	// CreatedAt and PasswordChangedAt are in Unix seconds.
	CreatedAt         int64 `json:"created_at"`
	PasswordChangedAt int64 `json:"password_changed_at"`
}

// Role returns the user's role.
func (u User) Role() Role {
	r, _ := RoleOfLevel(u.Level)
	return r
}

// CheckUserName refuses a name that is empty, longer than 64 bytes, or holds
// anything but letters, digits and "._@-".
func CheckUserName(name string) error {
	if name == "" {
		return Invalid("username", "is empty")
	}
	if len(name) > maxUserNameSize {
		return Invalid("username", "is %d bytes long, at most %d are accepted", len(name), maxUserNameSize)
	}
	for _, c := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-", c) {
			return Invalid("username", "only letters, digits and ._@- are accepted, not %q", c)
		}
	}
	return nil
}

// UserChange says what to change; nil leaves a field as it is.
type UserChange struct {
	Level        *int    `json:"level,omitempty"`
	Avatar       *string `json:"avatar,omitempty"`
	PasswordHash *string `json:"password_hash,omitempty"`
}

// TokenKind tells a log-in's token from one that was made for a program.
type TokenKind string

// The kinds of tokens.
const (
	TokenSession TokenKind = "session"
	TokenAPI     TokenKind = "api"
)

// Token is a bearer credential. Its secret is 256 random bits that only the
// client keeps; the state holds the SHA-256 of the token's text.
type Token struct {
	// ID names the token in lists; it is no secret.
	ID   string    `json:"id"`
	Hash string    `json:"hash"` // hex SHA-256 of the token's text
	User string    `json:"user"`
	Kind TokenKind `json:"kind"`
	Name string    `json:"name,omitempty"`
	// Role narrows the user's role if it is set; it never widens it.
	Role Role `json:"role,omitempty"`
	// CreatedAt, ExpiresAt and LastUsedAt are in Unix seconds. ExpiresAt is never 0.
	CreatedAt  int64 `json:"created_at"`
	ExpiresAt  int64 `json:"expires_at"`
	LastUsedAt int64 `json:"last_used_at"`
	// IdleSeconds ends the token when it is unused for so long; 0: never.
	IdleSeconds int64 `json:"idle_seconds"`
}

// ValidAt tells whether the token can be used at now, in Unix seconds.
func (t Token) ValidAt(now int64) bool {
	return now < t.ExpiresAt && (t.IdleSeconds == 0 || now-t.LastUsedAt < t.IdleSeconds)
}

// KeyScope is what an AK/SK pair is good for.
type KeyScope string

// The scopes of keys.
const (
	// KeyScopeSD registers and evicts services.
	KeyScopeSD KeyScope = "sd"
	// KeyScopeAgents serves /conn/*, /command/ and the routes between services.
	KeyScopeAgents KeyScope = "agents"
)

// AccessKey is an AK/SK pair as it is listed: without its secret.
type AccessKey struct {
	AccessKey string   `json:"access_key"` // lower case
	Scope     KeyScope `json:"scope"`
	Note      string   `json:"note,omitempty"`
	CreatedAt int64    `json:"created_at"` // Unix seconds
}
