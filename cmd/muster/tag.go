// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"muster/internal/apiclient"
	"muster/internal/apiv1"
)

// tagCmd is `muster tag`.
type tagCmd struct {
	clientFlags
	List tagListCmd `cmd:"" help:"List the tags that agents carry."`
	Add  tagAddCmd  `cmd:"" help:"Give a tag to agents."`
	Del  tagDelCmd  `cmd:"" help:"Take a tag from agents."`
}

type tagListCmd struct {
	listFlags
}

// Run lists tags.
func (c *tagListCmd) Run(a *app) error {
	tags, err := list[apiv1.Tag](a, "/v1/tags", nil, c.Limit)
	if err != nil {
		return err
	}
	t := &table{head: []string{"TAG", "AGENTS"}}
	for _, tag := range tags {
		t.add(tag.Tag, strconv.Itoa(tag.Agents))
	}
	return a.show(tags, t)
}

// taggedAgents names a tag and agents.
type taggedAgents struct {
	Tag     string   `arg:"" help:"The tag."`
	IDs     []string `arg:"" name:"id" optional:"" help:"The agents' IDs."`
	IDsFile string   `name:"ids-file" help:"File with more IDs, one a line; - reads standard input." placeholder:"FILE"`
}

// maxTagBatch is how many IDs go in one request.
const maxTagBatch = 1000

type tagAddCmd struct {
	taggedAgents
}

// Run gives a tag to agents.
func (c *tagAddCmd) Run(a *app) error {
	return c.change(a, func(ids []string) apiv1.TagAgents { return apiv1.TagAgents{Add: ids} })
}

type tagDelCmd struct {
	taggedAgents
}

// Run takes a tag from agents.
func (c *tagDelCmd) Run(a *app) error {
	return c.change(a, func(ids []string) apiv1.TagAgents { return apiv1.TagAgents{Remove: ids} })
}

func (c *taggedAgents) change(a *app, request func([]string) apiv1.TagAgents) error {
	ids, err := a.agentIDs(c.IDs, c.IDsFile)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		return usage("no agents: name their IDs, or a file with --ids-file")
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	all := apiv1.TagResult{Unknown: []string{}}
	for chunk := range slices.Chunk(ids, maxTagBatch) {
		var one apiv1.TagResult
		if err := client.Do(a.ctx, http.MethodPost, apiclient.Path("v1", "tags", c.Tag, "agents"), request(chunk), &one); err != nil {
			return err
		}
		all.Changed += one.Changed
		all.Unknown = append(all.Unknown, one.Unknown...)
	}
	// Programs get the answer in any case, people only if something changed.
	if a.flags.Output != "table" || all.Changed > 0 || len(all.Unknown) == 0 {
		if err := a.done(all, "Changed %d of %s.", all.Changed, plural(len(ids), "agent")); err != nil {
			return err
		}
	}
	if len(all.Unknown) > 0 {
		return fmt.Errorf("no agent has the ID %s", few(all.Unknown))
	}
	return nil
}

// agentIDs joins IDs of the command line with those of a file.
func (a *app) agentIDs(ids []string, file string) ([]string, error) {
	if file == "" {
		return ids, nil
	}
	text, err := a.readInput(file)
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(ids), strings.Fields(string(text))...), nil
}
