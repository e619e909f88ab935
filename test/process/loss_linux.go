// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the kernel calls the parts of a BPF program, and of bpf(2).
const (
	bpfProgLoad, bpfLinkCreate = 5, 28

	xdpProgram, xdpAttach, xdpGeneric = 6, 37, 2
	xdpDrop, xdpPass                  = 1, 2

	getRandom = 7 // the helper that returns a random u32
)

type instruction struct {
	code byte
	regs byte // source in the upper half, destination in the lower
	off  int16
	imm  int32
}

// lossProgram drops such a part of the packets of IPv4 to hosts below firstOther,
// as they come out of a node's end of the bridge.
func lossProgram(loss float64) (code []byte) {
	const pass = 15 // the instruction that lets through
	for i, in := range []instruction{
		0:    {0x61, 0x12, 0, 0},             // r2 = data
		1:    {0x61, 0x13, 4, 0},             // r3 = its end
		2:    {0xbf, 0x24, 0, 0},             // r4 = r2
		3:    {0x07, 0x04, 0, 34},            // r4 += headers of Ethernet and IPv4
		4:    {0x2d, 0x34, pass, 0},          // if r4 > r3
		5:    {0x71, 0x24, 12, 0},            // r4 = first byte of the type
		6:    {0x55, 0x04, pass, 8},          // if r4 != 8
		7:    {0x71, 0x24, 13, 0},            // r4 = second byte of the type
		8:    {0x55, 0x04, pass, 0},          // if r4 != 0
		9:    {0x71, 0x24, 33, 0},            // r4 = last byte of where it goes
		10:   {0x35, 0x04, pass, firstOther}, // if r4 >= firstOther
		11:   {0x85, 0x00, 0, getRandom},     // r0 = random
		12:   {0x35, 0x00, pass, int32(loss * (1 << 32))},
		13:   {0xb7, 0x00, 0, xdpDrop},
		14:   {0x95, 0x00, 0, 0},
		pass: {0xb7, 0x00, 0, xdpPass},
		16:   {0x95, 0x00, 0, 0},
	} {
		if in.off == pass {
			in.off -= int16(i) + 1
		}
		code = append(code, in.code, in.regs)
		code = binary.NativeEndian.AppendUint16(code, uint16(in.off))
		code = binary.NativeEndian.AppendUint32(code, uint32(in.imm))
	}
	return code
}

// loseOn loses a part, less than half, of what comes in from that interface, until
// the returned function is called.
func loseOn(name string, loss float64) (mend func(), err error) {
	port, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	code, license := lossProgram(loss), []byte("Apache-2.0\x00")
	load := make([]byte, 72)
	binary.NativeEndian.PutUint32(load[0:], xdpProgram)
	binary.NativeEndian.PutUint32(load[4:], uint32(len(code)/8))
	binary.NativeEndian.PutUint64(load[8:], uint64(uintptr(unsafe.Pointer(&code[0]))))
	binary.NativeEndian.PutUint64(load[16:], uint64(uintptr(unsafe.Pointer(&license[0]))))
	binary.NativeEndian.PutUint32(load[68:], xdpAttach)
	program, err := bpf(bpfProgLoad, load)
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	if err != nil {
		return nil, fmt.Errorf("load a BPF program: %w", err)
	}
	defer func() { _ = unix.Close(program) }()
	create := make([]byte, 16)
	binary.NativeEndian.PutUint32(create[0:], uint32(program))
	binary.NativeEndian.PutUint32(create[4:], uint32(port.Index))
	binary.NativeEndian.PutUint32(create[8:], xdpAttach)
	binary.NativeEndian.PutUint32(create[12:], xdpGeneric)
	link, err := bpf(bpfLinkCreate, create)
	if err != nil {
		return nil, fmt.Errorf("attach a BPF program to %s: %w", name, err)
	}
	return func() { _ = unix.Close(link) }, nil
}

func bpf(command uintptr, attr []byte) (fd int, err error) {
	r, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)))
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}
