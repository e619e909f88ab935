// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"testing"

	"muster/fleet"
)

// TestCommandPermission: only the task of a plugin, alone, is for those who run
// tasks.
func TestCommandPermission(t *testing.T) {
	scan, shutdown := &fleet.AgentTask{Name: "scanner"}, &fleet.AgentTask{Name: fleet.AgentProduct}
	config := []fleet.ConfigItem{{Name: "driver"}}
	for _, tt := range []struct {
		command fleet.AgentCommand
		want    fleet.Permission
	}{
		{fleet.AgentCommand{Task: scan}, fleet.PermTaskRun},
		{fleet.AgentCommand{Task: shutdown}, fleet.PermFleetWrite},
		{fleet.AgentCommand{Config: config}, fleet.PermFleetWrite},
		{fleet.AgentCommand{Task: scan, Config: config}, fleet.PermFleetWrite},
		{fleet.AgentCommand{Task: scan, Ctrl: 1}, fleet.PermFleetWrite},
		{fleet.AgentCommand{Task: scan, Ctrl: -1}, fleet.PermFleetWrite},
		{fleet.AgentCommand{}, fleet.PermFleetWrite},
	} {
		if got := tt.command.Permission(); got != tt.want {
			t.Errorf("%+v needs %s, want %s", tt.command, got, tt.want)
		}
	}
	if fleet.RoleTaskViewer.May(fleet.PermFleetWrite) || !fleet.RoleTaskViewer.May(fleet.PermTaskRun) {
		t.Error("one who runs tasks may change the fleet, or may not run tasks")
	}
}
