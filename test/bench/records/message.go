// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package records

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"

	"github.com/klauspost/compress/s2"
	"google.golang.org/protobuf/encoding/protowire"
)

// RecordBytes is the size of a process event on the wire, without its frame in
// the message.
const RecordBytes = 600

const (
	typeExecve    = 59
	typeHeartbeat = 1000
	version       = "1.9.1.145"
	product       = "elkeid-agent"
	// prefixBytes is gRPC's: a flag for compression and four bytes of length.
	prefixBytes = 5
)

// Maker makes messages of one agent. It belongs to one goroutine.
type Maker struct {
	agent  uint32
	number uint64
	rng    *rand.Rand
	packer *Packer

	identity []byte
	plain    []byte
	marks    []int // where in plain the marks are
	packed   bytes.Buffer
	kept     bool // the caller keeps what is in packed
}

// Packer compresses messages as a stock agent does: snappy's framed format. It
// may be shared by many makers.
type Packer struct{ writers sync.Pool }

// NewPacker makes one.
func NewPacker() *Packer {
	p := &Packer{}
	p.writers.New = func() any { return s2.NewWriter(nil, s2.WriterSnappyCompat(), s2.WriterConcurrency(1)) }
	return p
}

// NewMaker makes the messages of the agent with that index. Its records are the
// same in each run.
func (p *Packer) NewMaker(agent uint32) *Maker {
	m := &Maker{
		agent: agent, rng: rand.New(rand.NewPCG(uint64(agent), 1)), //nolint:gosec // made-up data
		packer: p,
	}
	m.identity = appendText(m.identity, 2, AgentID(agent))
	m.identity = appendText(m.identity, 3, fmt.Sprintf("10.%d.%d.%d", agent>>16&255, agent>>8&255, agent&255))
	m.identity = appendText(m.identity, 7, fmt.Sprintf("host-%06d.bench.internal", agent))
	m.identity = appendText(m.identity, 8, version)
	m.identity = appendText(m.identity, 9, product)
	return m
}

// AgentID is the ID of the agent with that index.
func AgentID(agent uint32) string {
	return fmt.Sprintf("%08x-be9c-4000-8000-%012x", agent*2654435761, agent)
}

// Frame is a message as gRPC puts it into a stream: prefix and compressed bytes.
type Frame []byte

// Events makes a message of process events that carry no numbers, for sending
// any number of times. now is in Unix seconds.
func (m *Maker) Events(count int, now int64) (Frame, error) {
	m.write(count, now)
	m.kept = true
	return m.frame()
}

// Numbered makes a message of process events with the next numbers. The frame is
// good until the next call. Contents repeat from call to call, but for the marks.
func (m *Maker) Numbered(count int, sent int64) (Frame, error) {
	if m.kept || len(m.marks) != count {
		m.write(count, sent/1e9)
		m.kept = false
	}
	for _, at := range m.marks {
		Mark{Agent: m.agent, Number: m.number, Sent: sent}.put(m.plain[at:])
		m.number++
	}
	m.packed.Reset()
	return m.frame()
}

// Numbers is how many numbers Numbered has given out.
func (m *Maker) Numbers() uint64 { return m.number }

// Plain is the last message before compression.
func (m *Maker) Plain() []byte { return m.plain }

// Heartbeat makes a message of one heartbeat.
func (m *Maker) Heartbeat(now int64) (Frame, error) {
	m.marks = m.marks[:0]
	m.plain = appendRecord(m.plain[:0], typeHeartbeat, now, m.heartbeat(now))
	m.plain = append(m.plain, m.identity...)
	m.packed, m.kept = bytes.Buffer{}, true
	return m.frame()
}

func (m *Maker) write(count int, now int64) {
	m.plain, m.marks = m.plain[:0], m.marks[:0]
	for range count {
		body, mark := m.event(now)
		m.plain = appendRecord(m.plain, typeExecve, now, body)
		m.marks = append(m.marks, len(m.plain)-len(body)+mark)
	}
	m.plain = append(m.plain, m.identity...)
	m.packed = bytes.Buffer{} // the last frame may be kept
}

// frame compresses plain.
func (m *Maker) frame() (Frame, error) {
	m.packed.Write([]byte{1, 0, 0, 0, 0})
	w, _ := m.packer.writers.Get().(*s2.Writer)
	defer m.packer.writers.Put(w)
	w.Reset(&m.packed)
	if _, err := w.Write(m.plain); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("end compressing: %w", err)
	}
	f := m.packed.Bytes()
	binary.BigEndian.PutUint32(f[1:], uint32(len(f)-prefixBytes)) //nolint:gosec // far below 4 GiB
	return f, nil
}

// program is one that the made-up hosts start.
type program struct{ exe, argv, comm, parent string }

func programs() []program {
	return []program{
		{"/usr/bin/bash", "bash -c /opt/app/bin/healthcheck --timeout 5 --format json", "bash", "/usr/sbin/cron"},
		{"/usr/bin/curl", "curl -fsS --max-time 3 http://127.0.0.1:8080/internal/health?id=", "curl", "/usr/bin/bash"},
		{"/usr/bin/ps", "ps -eo pid,ppid,user,rss,vsz,comm,args --sort=-rss", "ps", "/usr/bin/node_exporter"},
		{"/usr/bin/python3.11", "python3 /opt/app/jobs/rotate.py --keep 14 --dir /var/log/app/", "python3", "/usr/lib/systemd/systemd"},
		{"/usr/sbin/iptables", "iptables -w 5 -t nat -S KUBE-SVC-", "iptables", "/usr/local/bin/kube-proxy"},
		{"/usr/bin/runc", "runc --root /run/containerd/runc/k8s.io exec --process /tmp/runc-process", "runc", "/usr/bin/containerd-shim-runc-v2"},
	}
}

// event makes the body of a process event: 22 fields; its mark begins at mark.
func (m *Maker) event(now int64) (body []byte, mark int) {
	r := m.rng
	all := programs()
	p := all[r.IntN(len(all))]
	pid, ppid := 2000+r.IntN(60_000), 1000+r.IntN(3000)
	b := appendField(nil, markKey, string(bytes.Repeat([]byte("f"), markBytes)))
	mark = len(b) - markBytes
	for _, f := range [][2]string{
		{"uid", strconv.Itoa(r.IntN(3) * 1000)},
		{"exe", p.exe},
		{"argv", p.argv + strconv.FormatUint(r.Uint64()>>24, 16)},
		{"comm", p.comm},
		{"pid", strconv.Itoa(pid)},
		{"ppid", strconv.Itoa(ppid)},
		{"pgid", strconv.Itoa(pid)},
		{"tgid", strconv.Itoa(pid)},
		{"sid", strconv.Itoa(1000 + r.IntN(500))},
		{"ppid_exe", p.parent},
		{"stdin", "/dev/null"},
		{"stdout", "pipe:[" + strconv.Itoa(400_000+r.IntN(300_000)) + "]"},
		{"run_path", "/opt/app"},
		{"dip", "-1"},
		{"dport", "-1"},
		{"sa_family", "-1"},
		{"pid_tree", fmt.Sprintf("%d.%s<%d.containerd-shim<1.systemd", pid, p.comm, ppid)},
		{"tty_name", "-1"},
		{"res", "0"},
		{"username", "root"},
		{"exe_hash", fmt.Sprintf("%016x", r.Uint64())},
		{"time", strconv.FormatInt(now, 10)},
	} {
		b = appendField(b, f[0], f[1])
	}
	return pad(b, now), mark
}

// pad adds a field that makes the record RecordBytes long.
func pad(body []byte, now int64) []byte {
	const filler = "LANG=C.UTF-8:HOME=/root:SHELL=/bin/sh:LOGNAME=root:PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:TERM=linux:" +
		"INVOCATION_ID=0:JOURNAL_STREAM=8:SYSTEMD_EXEC_PID=1:MEMORY_PRESSURE_WATCH=/sys/fs/cgroup/system.slice/app.service/memory.pressure"
	over := len(appendField(nil, "env", "")) + len(recordOf(typeExecve, now, body))
	room := RecordBytes - over
	for range 3 { // lengths of one or two bytes
		padded := appendField(slices.Clip(body), "env", filler[:max(min(room, len(filler)), 0)])
		diff := len(recordOf(typeExecve, now, padded)) - RecordBytes
		if diff <= 0 {
			return padded
		}
		room -= diff
	}
	return appendField(body, "env", "")
}

// heartbeat makes the body of a record 1000: forty fields.
func (m *Maker) heartbeat(now int64) []byte {
	r := m.rng
	var b []byte
	for _, f := range [][2]string{
		{"kernel_version", "5.15.0-91-generic"},
		{"arch", "x86_64"},
		{"platform", "debian"},
		{"platform_family", "debian"},
		{"platform_version", "12.5"},
		{"nproc", "8"},
		{"total_mem", "16777216000"},
		{"host_model", "Standard PC (Q35 + ICH9, 2009)"},
		{"host_vendor", "QEMU"},
		{"dns", "10.0.0.2"},
		{"gateway", "10.0.0.1"},
		{"cpu_name", "Simulated CPU @ 2.60GHz"},
		{"state", "running"},
		{"state_detail", ""},
		{"idc", "default"},
		{"region", "default"},
		{"net_mode", "sd"},
		{"rx_speed", decimal(r, 200)},
		{"tx_speed", decimal(r, 9000)},
		{"cpu", decimal(r, 0.05)},
		{"rss", strconv.Itoa(20<<20 + r.IntN(8<<20))},
		{"read_speed", decimal(r, 10)},
		{"write_speed", decimal(r, 100)},
		{"pid", strconv.Itoa(1000 + int(m.agent%60_000))},
		{"nfd", strconv.Itoa(16 + r.IntN(8))},
		{"start_time", "1700000000"},
		{"tx_tps", decimal(r, 10)},
		{"rx_tps", decimal(r, 1)},
		{"du", strconv.Itoa(40<<20 + r.IntN(1<<20))},
		{"ngr", strconv.Itoa(30 + r.IntN(10))},
		{"load_1", decimal(r, 4)},
		{"load_5", decimal(r, 4)},
		{"load_15", decimal(r, 4)},
		{"running_procs", strconv.Itoa(1 + r.IntN(4))},
		{"total_procs", strconv.Itoa(200 + r.IntN(50))},
		{"host_serial", fmt.Sprintf("SN%08d", m.agent)},
		{"host_id", AgentID(m.agent)},
		{"boot_time", "1699990000"},
		{"cpu_usage", decimal(r, 1)},
		{"mem_usage", decimal(r, 0.7)},
		{"time", strconv.FormatInt(now, 10)},
	} {
		b = appendField(b, f[0], f[1])
	}
	return b
}

func decimal(r *rand.Rand, limit float64) string {
	return strconv.FormatFloat(r.Float64()*limit, 'f', 8, 64)
}

// appendRecord adds a record to a message.
func appendRecord(b []byte, dataType uint64, now int64, body []byte) []byte {
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	return protowire.AppendBytes(b, recordOf(dataType, now, body))
}

func recordOf(dataType uint64, now int64, body []byte) []byte {
	b := make([]byte, 0, RecordBytes+64)
	b = protowire.AppendTag(b, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, dataType)
	b = protowire.AppendTag(b, 2, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(now)) //nolint:gosec // after 1970
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	return protowire.AppendBytes(b, body)
}

// appendField adds one entry of Item's map to a body.
func appendField(b []byte, key, value string) []byte {
	size := protowire.SizeTag(1) + protowire.SizeBytes(len(key)) + protowire.SizeTag(2) + protowire.SizeBytes(len(value))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size)) //nolint:gosec // never negative
	b = appendText(b, 1, key)
	return appendText(b, 2, value)
}

func appendText(b []byte, num protowire.Number, text string) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendString(b, text)
}
