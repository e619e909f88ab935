// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package raftstore

import (
	"muster/fleet"
)

// maxTokensPerUser bounds a user's tokens; beyond it the session that would
// expire first makes room.
const maxTokensPerUser = 1000

const adminLevel = 0

type createUser struct {
	User fleet.User `json:"user"`
}

func (*createUser) kind() string { return "user.create" }

func (u *createUser) decide(c *change) (any, error) {
	if c.get(bucketUsers, []byte(u.User.Name)) != nil {
		return nil, fleet.Refuse(fleet.CodeExists, "user %q exists already", u.User.Name)
	}
	user := u.User
	user.CreatedAt, user.PasswordChangedAt = c.now, c.now
	c.store(bucketUsers, user.Name, user)
	c.touch(fleet.TableUsers)
	return nil, nil
}

type updateUser struct {
	Name      string           `json:"name"`
	Change    fleet.UserChange `json:"change"`
	KeepToken string           `json:"keep_token,omitempty"`
}

func (*updateUser) kind() string { return "user.update" }

func (u *updateUser) decide(c *change) (any, error) {
	user, ok := load[fleet.User](c, bucketUsers, u.Name)
	if !ok {
		return nil, fleet.Refuse(fleet.CodeNotFound, "there is no user %q", u.Name)
	}
	revoke := false
	if l := u.Change.Level; l != nil && *l != user.Level {
		if user.Level == adminLevel && c.adminsWithout(map[string]bool{u.Name: true}) == 0 {
			return nil, fleet.Refuse(fleet.CodeConflict, "%q is the last administrator: make another one first", u.Name)
		}
		user.Level, revoke = *l, true
	}
	if p := u.Change.PasswordHash; p != nil {
		user.PasswordHash, user.PasswordChangedAt, revoke = *p, c.now, true
	}
	if a := u.Change.Avatar; a != nil {
		user.Avatar = *a
	}
	c.store(bucketUsers, user.Name, user)
	c.touch(fleet.TableUsers)
	if revoke {
		c.revokeTokensOf(u.Name, u.KeepToken)
	}
	return nil, nil
}

// adminsWithout counts the administrators that are not in the set.
func (c *change) adminsWithout(gone map[string]bool) (n int) {
	c.scan(bucketUsers, nil, func(k, content []byte) bool {
		var u fleet.User
		mustDecode(bucketUsers, k, content, &u)
		if u.Level == adminLevel && !gone[u.Name] {
			n++
		}
		return true
	})
	return n
}

type deleteUsers struct {
	Names []string `json:"names"`
}

func (*deleteUsers) kind() string { return "user.delete" }

func (d *deleteUsers) decide(c *change) (any, error) {
	gone := make(map[string]bool, len(d.Names))
	admin := false
	for _, name := range d.Names {
		user, ok := load[fleet.User](c, bucketUsers, name)
		if !ok {
			return nil, fleet.Refuse(fleet.CodeNotFound, "there is no user %q", name)
		}
		gone[name] = true
		admin = admin || user.Level == adminLevel
	}
	if admin && c.adminsWithout(gone) == 0 {
		return nil, fleet.Refuse(fleet.CodeConflict, "no administrator would be left: make another one first")
	}
	for _, name := range d.Names {
		c.remove(bucketUsers, []byte(name))
		c.revokeTokensOf(name, "")
	}
	c.touch(fleet.TableUsers)
	return nil, nil
}

type createToken struct {
	Token fleet.Token `json:"token"`
}

func (*createToken) kind() string { return "token.create" }

func (t *createToken) decide(c *change) (any, error) {
	token := t.Token
	if c.get(bucketUsers, []byte(token.User)) == nil {
		return nil, fleet.Refuse(fleet.CodeNotFound, "there is no user %q", token.User)
	}
	if c.get(bucketTokens, []byte(token.ID)) != nil || c.get(bucketTokenHashes, []byte(token.Hash)) != nil {
		return nil, fleet.Refuse(fleet.CodeExists, "token %q exists already", token.ID)
	}
	if token.ExpiresAt <= c.now {
		return nil, fleet.Invalid("expires_at", "%d is not in the future", token.ExpiresAt)
	}
	if err := c.makeRoomForToken(token.User); err != nil {
		return nil, err
	}
	if token.CreatedAt == 0 {
		token.CreatedAt = c.now
	}
	token.LastUsedAt = max(token.LastUsedAt, token.CreatedAt)
	c.store(bucketTokens, token.ID, token)
	c.put(bucketTokenHashes, []byte(token.Hash), []byte(token.ID))
	c.put(bucketTokenUsers, joinKey(token.User, token.ID), nil)
	c.put(bucketTokenExpiry, timeKey(token.ExpiresAt, token.ID), nil)
	c.touch(fleet.TableTokens)
	return nil, nil
}

func (c *change) makeRoomForToken(user string) error {
	ids := tokenIDsOf(c, user)
	if len(ids) < maxTokensPerUser {
		return nil
	}
	var first *fleet.Token
	for _, id := range ids {
		t, ok := load[fleet.Token](c, bucketTokens, id)
		if ok && t.Kind == fleet.TokenSession && (first == nil || t.ExpiresAt < first.ExpiresAt) {
			first = &t
		}
	}
	if first == nil {
		return fleet.Refuse(fleet.CodeTooLarge, "user %q has %d tokens: revoke one first", user, len(ids))
	}
	c.removeToken(*first)
	return nil
}

func tokenIDsOf(r reader, user string) (ids []string) {
	scanPrefix(r, bucketTokenUsers, joinKey(user, ""), func(rest, _ []byte) bool {
		ids = append(ids, string(rest))
		return true
	})
	return ids
}

func (c *change) revokeTokensOf(user, keep string) {
	for _, id := range tokenIDsOf(c, user) {
		if t, ok := load[fleet.Token](c, bucketTokens, id); ok && id != keep {
			c.removeToken(t)
		}
	}
}

func (c *change) removeToken(t fleet.Token) {
	c.remove(bucketTokens, []byte(t.ID))
	c.remove(bucketTokenHashes, []byte(t.Hash))
	c.remove(bucketTokenUsers, joinKey(t.User, t.ID))
	c.remove(bucketTokenExpiry, timeKey(t.ExpiresAt, t.ID))
	c.touch(fleet.TableTokens)
}

func (c *change) expireTokens() {
	n := 0
	c.scan(bucketTokenExpiry, nil, func(k, _ []byte) bool {
		at, id := splitTimeKey(k)
		if at > c.now || n == pruneItems {
			return false
		}
		if t, ok := load[fleet.Token](c, bucketTokens, id); ok {
			c.removeToken(t)
		}
		n++
		return true
	})
}

type revokeToken struct {
	ID string `json:"id"`
}

func (*revokeToken) kind() string { return "token.revoke" }

func (r *revokeToken) decide(c *change) (any, error) {
	t, ok := load[fleet.Token](c, bucketTokens, r.ID)
	if !ok {
		return nil, fleet.Refuse(fleet.CodeNotFound, "there is no token %q", r.ID)
	}
	c.removeToken(t)
	return nil, nil
}

type touchToken struct {
	ID string `json:"id"`
	At int64  `json:"at"`
}

func (*touchToken) kind() string { return "token.touch" }

func (u *touchToken) decide(c *change) (any, error) {
	t, ok := load[fleet.Token](c, bucketTokens, u.ID)
	if !ok {
		return nil, fleet.Refuse(fleet.CodeNotFound, "there is no token %q", u.ID)
	}
	if u.At > t.LastUsedAt {
		t.LastUsedAt = u.At
		c.store(bucketTokens, t.ID, t)
	}
	return nil, nil
}

// storedKey is an access key with its secret as Sealer made it.
type storedKey struct {
	Key    fleet.AccessKey `json:"key"`
	Sealed []byte          `json:"sealed"`
}

type addKey struct {
	Key    fleet.AccessKey `json:"key"`
	Sealed []byte          `json:"sealed"`
}

func (*addKey) kind() string { return "key.add" }

func (a *addKey) decide(c *change) (any, error) {
	if c.get(bucketKeys, []byte(a.Key.AccessKey)) != nil {
		return nil, fleet.Refuse(fleet.CodeExists, "access key %q exists already", a.Key.AccessKey)
	}
	key := a.Key
	key.CreatedAt = c.now
	c.store(bucketKeys, key.AccessKey, storedKey{Key: key, Sealed: a.Sealed})
	c.touch(fleet.TableKeys)
	return nil, nil
}

type deleteKey struct {
	AccessKey string `json:"access_key"`
}

func (*deleteKey) kind() string { return "key.delete" }

func (d *deleteKey) decide(c *change) (any, error) {
	if c.get(bucketKeys, []byte(d.AccessKey)) == nil {
		return nil, fleet.Refuse(fleet.CodeNotFound, "there is no access key %q", d.AccessKey)
	}
	c.remove(bucketKeys, []byte(d.AccessKey))
	c.touch(fleet.TableKeys)
	return nil, nil
}
