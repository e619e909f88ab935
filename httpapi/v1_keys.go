// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"muster/fleet"
	"muster/internal/apiv1"
)

// Limits of keys.
const (
	maxKeyNoteBytes   = 256
	maxAccessKeyBytes = 128
	minSecretBytes    = 16
	maxSecretBytes    = 256
)

// AgentCertificates issues the certificates with which agents connect.
type AgentCertificates interface {
	// IssueFleet makes one that is good for any agent ID.
	IssueFleet(name string) (Bundle, error)
	// IssueAgent makes one that is good for that agent alone.
	IssueAgent(id string) (Bundle, error)
}

// Bundle is what an agent needs to connect, as PEM.
type Bundle struct {
	CA, Cert, Key []byte
	NotAfter      time.Time
}

func (a *API) v1KeyRoutes() []Route {
	admin := permit(fleet.PermAdmin)
	return []Route{
		{
			Method: http.MethodGet, Path: "/v1/keys", Access: admin, handle: a.v1Keys,
			Summary: "AK/SK pairs, without their secrets.", Query: apiv1.PageQuery{}, Response: apiv1.Page[apiv1.Key]{},
		},
		{
			Method: http.MethodPost, Path: "/v1/keys", Access: admin, handle: withBody(a.v1AddKey),
			Summary: "Make an AK/SK pair, or import one. The secret is shown this once.",
			Request: apiv1.NewKey{}, Response: apiv1.CreatedKey{}, Status: http.StatusCreated,
		},
		{
			Method: http.MethodDelete, Path: "/v1/keys/:ak", Access: admin, handle: a.v1DeleteKey,
			Summary: "Delete an AK/SK pair.", Query: pathKey{}, Status: http.StatusNoContent,
		},
		{
			Method: http.MethodPost, Path: "/v1/pki/agent-bundles", Access: admin, handle: withBody(a.v1AgentBundle),
			Summary: "Make a certificate with which one agent, or any, can connect. The key is shown this once.",
			Request: apiv1.NewAgentBundle{}, Response: apiv1.AgentBundle{}, Status: http.StatusCreated,
		},
	}
}

func (a *API) v1Keys(w http.ResponseWriter, r *http.Request, _ *call) error {
	values, err := listQuery(r)
	if err != nil {
		return err
	}
	limit, after, err := limitAfter(values)
	if err != nil {
		return err
	}
	keys, err := a.opts.State.Keys.Keys()
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, keyPageFrom(convert(keys, showKey), limit, after, func(k apiv1.Key) string { return k.AccessKey }))
}

func showKey(k fleet.AccessKey) apiv1.Key {
	return apiv1.Key{AccessKey: k.AccessKey, Scope: string(k.Scope), Note: k.Note, CreatedAt: at(k.CreatedAt)}
}

func (a *API) v1AddKey(w http.ResponseWriter, r *http.Request, _ *call, in apiv1.NewKey) error {
	k := fleet.AccessKey{Scope: fleet.KeyScope(in.Scope), Note: in.Note, CreatedAt: a.opts.Now().Unix()}
	if k.Scope != fleet.KeyScopeSD && k.Scope != fleet.KeyScopeAgents {
		return fleet.Invalid("scope", "%q is none of sd, agents", clip(in.Scope))
	}
	if len(in.Note) > maxKeyNoteBytes {
		return fleet.Invalid("note", "is %d bytes long, at most %d are accepted", len(in.Note), maxKeyNoteBytes)
	}
	access, secret := newKey()
	if in.Import != "" {
		var err error
		if access, secret, err = importedKey(in.Import); err != nil {
			return err
		}
	}
	k.AccessKey = access
	if err := a.opts.State.Keys.AddKey(r.Context(), k, []byte(secret)); err != nil {
		return err
	}
	return respond(w, http.StatusCreated, apiv1.CreatedKey{Key: showKey(k), SecretKey: secret})
}

// newKey makes a pair: 100 random bits that are no secret, and 240 that are.
func newKey() (access, secret string) {
	var b [45]byte
	rand.Read(b[:])
	access = strings.ToLower(base32.StdEncoding.EncodeToString(b[:15]))[:20]
	return access, base64.RawURLEncoding.EncodeToString(b[15:])
}

// importedKey takes AK:SK apart. Access keys are lower case: clients of Elkeid
// send them in either, and its services lower them.
func importedKey(text string) (access, secret string, err error) {
	access, secret, ok := strings.Cut(text, ":")
	access = strings.ToLower(access)
	switch {
	case !ok:
		return "", "", fleet.Invalid("import", "is not of the form AK:SK")
	case access == "" || len(access) > maxAccessKeyBytes || strings.Trim(access, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "":
		return "", "", fleet.Invalid("import", "the access key must be 1 to %d letters, digits and -_.", maxAccessKeyBytes)
	case len(secret) < minSecretBytes || len(secret) > maxSecretBytes:
		return "", "", fleet.Invalid("import", "the secret key is %d bytes long, %d to %d are accepted", len(secret), minSecretBytes, maxSecretBytes)
	}
	return access, secret, nil
}

func (a *API) v1DeleteKey(w http.ResponseWriter, r *http.Request, c *call) error {
	if err := a.opts.State.Keys.DeleteKey(r.Context(), strings.ToLower(c.param("ak"))); err != nil {
		return err
	}
	return noContent(w)
}

func (a *API) v1AgentBundle(w http.ResponseWriter, _ *http.Request, c *call, in apiv1.NewAgentBundle) error {
	issuer := a.opts.Native.AgentCertificates
	if issuer == nil {
		return fleet.ErrUnavailable
	}
	var b Bundle
	var err error
	switch in.Kind {
	case "fleet":
		if err := fleet.CheckUserName(in.Name); err != nil {
			return refield(err, "name")
		}
		if in.AgentID != "" {
			return fleet.Invalid("agent_id", "does not go with kind fleet, which is good for any agent")
		}
		b, err = issuer.IssueFleet(in.Name)
	case "agent":
		if err := fleet.CheckAgentID(in.AgentID); err != nil {
			return err
		}
		b, err = issuer.IssueAgent(in.AgentID)
	default:
		return fleet.Invalid("kind", "%q is none of fleet, agent", clip(in.Kind))
	}
	if err != nil {
		if _, refused := errors.AsType[*fleet.Refusal](err); refused {
			return err
		}
		return fmt.Errorf("issue an agent's certificate: %w", err)
	}
	a.log.Info("agent certificate issued", "kind", in.Kind, "name", in.Name, "agent_id", in.AgentID, "by", c.caller.name())
	return respond(w, http.StatusCreated, apiv1.AgentBundle{
		CA: string(b.CA), Cert: string(b.Cert), Key: string(b.Key), NotAfter: b.NotAfter.UTC(),
	})
}
