// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package simagent

import (
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Data types that the simulator sends or acts on. Source: the agent's protocol.
const (
	typeExecve          int32 = 59
	typeHeartbeat       int32 = 1000
	typePluginHeartbeat int32 = 1001
	typeUpload          int32 = 1050
	typeSettings        int32 = 1051
	typeShutdown        int32 = 1060
	typeTaskResult      int32 = 5100
	typeScanFinished    int32 = 6000
	typeScanPath        int32 = 6053
	typeScanAll         int32 = 6057
	typeBaseline        int32 = 8000
	typeBaselineStatus  int32 = 8010
)

// The fields of a data record that Tally reads.
const (
	fieldRun = "sim_run"
	fieldSeq = "sim_seq"
)

// appendField adds one entry of Item's map to a body. Entries may be appended
// one after another: that is how the wire writes a map.
func appendField(b []byte, key, value string) []byte {
	size := protowire.SizeTag(1) + protowire.SizeBytes(len(key)) + protowire.SizeTag(2) + protowire.SizeBytes(len(value))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, key)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	return protowire.AppendString(b, value)
}

// appendFields adds pairs of key and value.
func appendFields(b []byte, pairs ...string) []byte {
	for i := 0; i+1 < len(pairs); i += 2 {
		b = appendField(b, pairs[i], pairs[i+1])
	}
	return b
}

func decimal(v float64) string { return strconv.FormatFloat(v, 'f', 8, 64) }

// templates are the parts of bodies that are the same for the whole fleet,
// encoded once. They are never written to after newTemplates.
type templates struct {
	heartbeat []byte
	execve    [][]byte
	run       []byte // the sim_run entry
}

func newTemplates(run string) *templates {
	t := &templates{
		heartbeat: appendFields(nil,
			"kernel_version", "5.15.0-91-generic", "arch", "x86_64",
			"platform", "debian", "platform_family", "debian", "platform_version", "12.5",
			"nproc", "8", "total_mem", "16777216000",
			"host_model", "Standard PC (Q35 + ICH9, 2009)", "host_vendor", "QEMU",
			"dns", "10.0.0.2", "gateway", "10.0.0.1", "cpu_name", "Simulated CPU @ 2.60GHz"),
		run: appendField(nil, fieldRun, run),
	}
	for _, p := range [][4]string{
		{"/usr/bin/bash", "bash -c /opt/app/bin/healthcheck --timeout 5 --format json --quiet", "cron", "/usr/sbin/cron"},
		{"/usr/bin/curl", "curl -fsS --max-time 3 http://127.0.0.1:8080/internal/health?verbose=1", "healthcheck", "/usr/bin/bash"},
		{"/usr/bin/ps", "ps -eo pid,ppid,user,rss,vsz,etimes,comm,args --sort=-rss --no-headers", "node_exporter", "/usr/bin/node_exporter"},
		{"/usr/bin/python3.11", "python3 /opt/app/jobs/rotate.py --keep 14 --dir /var/log/app --compress", "systemd", "/usr/lib/systemd/systemd"},
	} {
		t.execve = append(t.execve, appendFields(nil,
			"uid", "0", "exe", p[0], "argv", p[1], "comm", p[2], "ppid_exe", p[3],
			"run_path", "/opt/app", "stdin", "/dev/null", "stdout", "pipe:[483920]",
			"dip", "-1", "dport", "-1", "sip", "-1", "sport", "-1", "sa_family", "-1",
			"pid_tree", "2211.bash<1904.runsvc.sh<911.containerd-shim<1.systemd",
			"tty_name", "-1", "socket_pid", "-1", "ssh", "-1", "ld_preload", "-1", "res", "0",
			"username", "root", "exe_hash", "3f1c0ab7d9e45528"))
	}
	return t
}

// appendExecve adds the body of a process event: some 25 fields and 600 bytes.
func (t *templates) appendExecve(b []byte, seq uint64, timestamp int64) []byte {
	b = append(b, t.execve[seq%uint64(len(t.execve))]...)
	b = append(b, t.run...)
	b = appendField(b, fieldSeq, strconv.FormatUint(seq, 10))
	b = appendField(b, "pid", strconv.Itoa(1000+rand.IntN(4_000_000)))
	return appendField(b, "time", strconv.FormatInt(timestamp, 10))
}

// vitals are what an agent says of itself in a heartbeat.
type vitals struct {
	first          bool // of this process: speeds are +Inf
	netMode        string
	idc, region    string
	started        time.Time
	txTPS, rxTPS   float64
	pid            int
	hostID, serial string
	state          string
	stateDetail    string
}

// agentHeartbeat is the body of a record 1000: forty fields, the static ones first.
func (t *templates) agentHeartbeat(v vitals) []byte {
	speed := 0.0
	if v.first {
		speed = math.Inf(1)
	}
	load := rand.Float64() * 4
	b := make([]byte, len(t.heartbeat), len(t.heartbeat)+768)
	copy(b, t.heartbeat)
	return appendFields(b,
		"state", v.state, "state_detail", v.stateDetail, "idc", v.idc, "region", v.region, "net_mode", v.netMode,
		"rx_speed", decimal(rand.Float64()*200), "tx_speed", decimal(rand.Float64()*9000),
		"cpu", decimal(rand.Float64()*0.05), "rss", strconv.Itoa(20<<20+rand.IntN(8<<20)),
		"read_speed", decimal(speed), "write_speed", decimal(speed),
		"pid", strconv.Itoa(v.pid), "nfd", strconv.Itoa(16+rand.IntN(8)),
		"start_time", strconv.FormatInt(v.started.Unix(), 10),
		"tx_tps", decimal(v.txTPS), "rx_tps", decimal(v.rxTPS),
		"du", strconv.Itoa(40<<20+rand.IntN(1<<20)), "ngr", strconv.Itoa(30+rand.IntN(10)),
		"load_1", strconv.FormatFloat(load, 'f', 2, 64), "load_5", strconv.FormatFloat(load*0.9, 'f', 2, 64),
		"load_15", strconv.FormatFloat(load*0.8, 'f', 2, 64),
		"running_procs", strconv.Itoa(1+rand.IntN(4)), "total_procs", strconv.Itoa(200+rand.IntN(50)),
		"host_serial", v.serial, "host_id", v.hostID,
		"boot_time", strconv.FormatInt(v.started.Add(-time.Hour).Unix(), 10),
		"cpu_usage", decimal(rand.Float64()), "mem_usage", decimal(0.3+rand.Float64()*0.4))
}

// pluginHeartbeat is the body of a plugin's heartbeat.
func pluginHeartbeat(p running) []byte {
	return appendFields(make([]byte, 0, 384),
		"name", p.Name, "pversion", p.Version,
		"cpu", decimal(rand.Float64()*0.05), "rss", strconv.Itoa(30<<20+rand.IntN(8<<20)),
		"read_speed", decimal(0), "write_speed", decimal(rand.Float64()*100),
		"pid", strconv.Itoa(p.pid), "nfd", strconv.Itoa(8+rand.IntN(8)),
		"start_time", strconv.FormatInt(p.started.Unix(), 10), "du", strconv.Itoa(5<<20),
		"rx_tps", decimal(0), "tx_tps", decimal(rand.Float64()*10),
		"rx_speed", decimal(0), "tx_speed", decimal(rand.Float64()*6000))
}

// running is a plugin with its process.
type running struct {
	Plugin
	pid     int
	started time.Time
}

func newRunning(p Plugin, now time.Time) running {
	return running{Plugin: p, pid: 1000 + rand.IntN(60_000), started: now}
}
