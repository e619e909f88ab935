// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package fleet

// DataType says what a record or a task is about. Source: the data type table
// of Elkeid's agent, plugins and server.
type DataType int32

// The data types that Muster itself acts on or sends.
const (
	DataTypeExecve          DataType = 59 // a process was started; what simulated agents send
	DataTypeHeartbeat       DataType = 1000
	DataTypePluginHeartbeat DataType = 1001
	DataTypeAgentError      DataType = 1010
	DataTypePluginError     DataType = 1011
	DataTypeAgentUpload     DataType = 1050 // task: upload a file {"path","buf_size"}
	DataTypeAgentSettings   DataType = 1051 // task: set {"idc","region"}; no reply
	DataTypeAgentShutdown   DataType = 1060 // task: end the process, systemd restarts it; no reply
	DataTypeReply2001       DataType = 2001 // replies of old plugins
	DataTypeReply2003       DataType = 2003
	DataTypeTaskResult      DataType = 5100 // {"token","status","msg"}
	DataTypeVerification    DataType = 5101 // stored as a result's text, leaves the state alone
	DataTypeScanFinished    DataType = 6000
	DataTypeScanPath        DataType = 6053 // task for the scanner
	DataTypeBaselineStatus  DataType = 8010
)

// AgentProduct is the name under which an agent itself, not one of its
// plugins, is given tasks and config.
const AgentProduct = "elkeid-agent"

// IsTaskReply tells whether a record of this type answers a task.
func (t DataType) IsTaskReply() bool {
	switch t {
	case DataTypeReply2001, DataTypeReply2003, DataTypeTaskResult,
		DataTypeVerification, DataTypeScanFinished, DataTypeBaselineStatus:
		return true
	}
	return false
}
