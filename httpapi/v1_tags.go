// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"muster/fleet"
	"muster/internal/apiv1"
)

// Limits of one change of tags.
const (
	maxTagChanges = 100
	maxTaggedIDs  = 10_000
)

func (a *API) v1TagRoutes() []Route {
	return []Route{
		{
			Method: http.MethodGet, Path: "/v1/tags", Heavy: true, Access: permit(fleet.PermFleetRead), handle: a.v1Tags,
			Summary: "Tags by name, with how many agents carry each.", Query: apiv1.PageQuery{}, Response: apiv1.Page[apiv1.Tag]{},
		},
		{
			Method: http.MethodPost, Path: "/v1/tags/:tag/agents", Access: permit(fleet.PermFleetWrite), handle: withBody(a.v1TagAgents),
			Summary: "Give a tag to agents, and take it from others. IDs that no agent has are skipped and named.",
			Query:   pathTag{}, Request: apiv1.TagAgents{}, Response: apiv1.TagResult{},
		},
	}
}

func (a *API) v1Tags(w http.ResponseWriter, r *http.Request, _ *call) error {
	values, err := listQuery(r)
	if err != nil {
		return err
	}
	limit, after, err := limitAfter(values)
	if err != nil {
		return err
	}
	counts, err := a.opts.State.Tags.Tags()
	if err != nil {
		return err
	}
	tags := convert(counts, func(t fleet.TagCount) apiv1.Tag { return apiv1.Tag(t) })
	return respond(w, http.StatusOK, keyPageFrom(tags, limit, after, func(t apiv1.Tag) string { return t.Tag }))
}

// checkTags holds each tag of a field against checkTag.
func checkTags(field string, tags []string) error {
	if len(tags) > maxTagChanges {
		return fleet.Invalid(field, "has %d tags, at most %d are accepted", len(tags), maxTagChanges)
	}
	for _, t := range tags {
		if err := checkTag(t); err != nil {
			return refield(err, field)
		}
	}
	return nil
}

func (a *API) v1TagAgent(w http.ResponseWriter, r *http.Request, c *call, in apiv1.TagChange) error {
	if err := errors.Join(checkTags("add", in.Add), checkTags("remove", in.Remove)); err != nil {
		return err
	}
	if len(in.Add)+len(in.Remove) == 0 {
		return fleet.Refuse(fleet.CodeInvalid, "there is neither add nor remove")
	}
	id := c.param("id")
	if err := a.inInventory(r.Context(), id); err != nil {
		return err
	}
	if _, err := a.opts.State.Tags.TagAgents(r.Context(), []string{id}, in.Add, in.Remove); err != nil {
		return err
	}
	return a.v1Agent(w, r, c)
}

// inInventory refuses an agent that cannot be tagged (yet).
func (a *API) inInventory(ctx context.Context, id string) error {
	known, _, err := a.resolveAgents(ctx, []string{id})
	if err != nil || len(known) > 0 {
		return err
	}
	if a.ask().isLive(ctx, id) {
		return fleet.Refuse(fleet.CodeConflict, "agent %q has just connected and is not in the inventory yet: try again in a second", clip(id))
	}
	return fleet.Refuse(fleet.CodeNotFound, "no agent has the ID %q", clip(id))
}

func (a *API) v1TagAgents(w http.ResponseWriter, r *http.Request, c *call, in apiv1.TagAgents) error {
	tag := []string{c.param("tag")}
	if err := checkTag(c.param("tag")); err != nil {
		return err
	}
	if n := len(in.Add) + len(in.Remove); n == 0 || n > maxTaggedIDs {
		return fleet.Refuse(fleet.CodeInvalid, "add and remove name %d agents together; 1 to %d are accepted", n, maxTaggedIDs)
	}
	_, unknown, err := a.resolveAgents(r.Context(), slices.Concat(in.Add, in.Remove))
	if err != nil {
		return err
	}
	out := apiv1.TagResult{Unknown: nonNil(unknown)}
	if len(in.Add) > 0 {
		n, err := a.opts.State.Tags.TagAgents(r.Context(), in.Add, tag, nil)
		if err != nil {
			return err
		}
		out.Changed += n
	}
	if len(in.Remove) > 0 {
		n, err := a.opts.State.Tags.TagAgents(r.Context(), in.Remove, nil, tag)
		if err != nil {
			return err
		}
		out.Changed += n
	}
	return respond(w, http.StatusOK, out)
}
