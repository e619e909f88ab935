// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package apiv1

import "time"

// User is an account.
type User struct {
	Name              string    `json:"name"`
	Role              string    `json:"role"`
	Level             int       `json:"level" description:"Elkeid's number of the role, 0 to 8."`
	CreatedAt         time.Time `json:"created_at,omitzero"`
	PasswordChangedAt time.Time `json:"password_changed_at,omitzero"`
}

// NewUser asks for an account, with a role or a level.
type NewUser struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	Role     string `json:"role,omitempty" enum:"admin,operator,viewer,task-viewer,rule-editor,rule-reader,responder"`
	Level    *int   `json:"level,omitempty" minimum:"0" maximum:"8" description:"Elkeid's number, instead of role."`
}

// UserChange changes an account; what is absent stays as it is.
type UserChange struct {
	Role            string `json:"role,omitempty" enum:"admin,operator,viewer,task-viewer,rule-editor,rule-reader,responder"`
	Level           *int   `json:"level,omitempty" minimum:"0" maximum:"8" description:"Elkeid's number, instead of role."`
	Password        string `json:"password,omitempty" description:"The new password; the account's other tokens end."`
	CurrentPassword string `json:"current_password,omitempty" description:"Needed to change one's own password."`
}

// Token is a bearer credential, as it is listed: without its secret.
type Token struct {
	ID         string    `json:"id"`
	User       string    `json:"user"`
	Kind       string    `json:"kind" enum:"session,api"`
	Name       string    `json:"name,omitempty"`
	Role       string    `json:"role" description:"What the token may do; never more than its user."`
	CreatedAt  time.Time `json:"created_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"`
}

// NewToken asks for a token: with a user's name and password, or, without
// them, with a token of the user for whom it is made.
type NewToken struct {
	Username  string `json:"username,omitempty"`
	Password  string `json:"password,omitempty"`
	Name      string `json:"name,omitempty" maxLength:"64" description:"A note that tells tokens apart."`
	Role      string `json:"role,omitempty" description:"Narrows what the token may do."`
	ExpiresIn int64  `json:"expires_in,omitempty" minimum:"60" maximum:"31622400" description:"Seconds; 30 days when absent."`
}

// CreatedToken is a new token with its secret, which is shown this once.
type CreatedToken struct {
	Token
	Secret string `json:"token" description:"Send it as Authorization: Bearer, or in the header token."`
}

// Key is an AK/SK pair, as it is listed: without its secret.
type Key struct {
	AccessKey string    `json:"access_key"`
	Scope     string    `json:"scope" enum:"sd,agents"`
	Note      string    `json:"note,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"`
}

// NewKey asks for an AK/SK pair.
type NewKey struct {
	Scope  string `json:"scope" enum:"sd,agents" description:"sd: register and evict services. agents: /conn/* and /command/."`
	Note   string `json:"note,omitempty" maxLength:"256"`
	Import string `json:"import,omitempty" description:"An existing pair as AK:SK; without it a pair is made."`
}

// CreatedKey is a new pair with its secret, which is shown this once.
type CreatedKey struct {
	Key
	SecretKey string `json:"secret_key"`
}

// NewAgentBundle asks for the certificate of an agent or of a fleet.
type NewAgentBundle struct {
	Kind    string `json:"kind" enum:"fleet,agent" description:"fleet: good for any agent ID. agent: for agent_id alone."`
	Name    string `json:"name,omitempty" description:"Names a fleet certificate."`
	AgentID string `json:"agent_id,omitempty"`
}

// AgentBundle is what an agent needs to connect, as PEM.
type AgentBundle struct {
	CA       string    `json:"ca"`
	Cert     string    `json:"cert"`
	Key      string    `json:"key" description:"Shown this once; nobody keeps a copy."`
	NotAfter time.Time `json:"not_after"`
}
