// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentrpc

import (
	"bytes"
	"errors"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"muster/fleet"
	"muster/internal/agentpb"
)

// consumeTag reads a field's number and type; n < 0 means that they are wrong.
// Unlike protowire it refuses the numbers above 2^29-1, as unmarshalling does.
func consumeTag(b []byte) (num protowire.Number, typ protowire.Type, n int) {
	num, typ, n = protowire.ConsumeTag(b)
	if n > 0 && num > protowire.MaxValidNumber {
		return 0, 0, -1
	}
	return num, typ, n
}

// encodeRecord writes the three fields of a Record as protobuf does: zero
// values are left out.
func encodeRecord(dataType int32, timestamp int64, body []byte) []byte {
	b := make([]byte, 0, len(body)+32)
	if dataType != 0 {
		b = protowire.AppendTag(b, recordDataType, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(int64(dataType))) //nolint:gosec // the sign is extended on the wire
	}
	if timestamp != 0 {
		b = protowire.AppendTag(b, recordTimestamp, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(timestamp)) //nolint:gosec // int64 on the wire
	}
	if len(body) != 0 {
		b = protowire.AppendTag(b, recordBody, protowire.BytesType)
		b = protowire.AppendBytes(b, body)
	}
	return b
}

// encodeTags writes the tags as a field of MQData: nothing when there are none.
func encodeTags(tags []string) []byte {
	return appendText(nil, mqTag, []byte(strings.Join(tags, ",")))
}

// validText replaces each run of bytes that are not UTF-8 by one U+FFFD: stock
// agents do not check what they send, and readers of our protobuf do. It copies
// only what it changes.
func validText(text []byte) []byte {
	if utf8.Valid(text) {
		return text
	}
	return bytes.ToValidUTF8(text, []byte("\uFFFD"))
}

func appendText(b []byte, num protowire.Number, text []byte) []byte {
	if len(text) == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendBytes(b, text)
}

// appendJoined writes a list as one string with commas between its items.
func appendJoined(b []byte, num protowire.Number, list [][]byte) []byte {
	size := max(len(list)-1, 0)
	for _, s := range list {
		size += len(s)
	}
	if size == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size)) //nolint:gosec // never negative
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, s...)
	}
	return b
}

// eachField calls fn for the entries of an Item, the body of a record, in the
// order of the wire. Keys and values are UTF-8; see validText. A key that comes
// twice is given twice and the last one counts. An entry that is malformed is
// left out; the error says that something was.
func eachField(body []byte, fn func(key, value []byte)) error {
	var fault error
	for b := body; len(b) > 0; {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		if num != 1 || typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return errMalformed
			}
			b = b[n:]
			continue
		}
		entry, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		key, value, err := mapEntry(entry)
		if err != nil {
			fault = err
			continue
		}
		fn(key, value)
	}
	return fault
}

// mapEntry takes one entry of a map<string,string> apart; what is missing is empty.
func mapEntry(b []byte) (key, value []byte, err error) {
	for len(b) > 0 {
		num, typ, n := consumeTag(b)
		if n < 0 {
			return nil, nil, errMalformed
		}
		b = b[n:]
		if num > 2 || typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return nil, nil, errMalformed
			}
			b = b[n:]
			continue
		}
		text, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return nil, nil, errMalformed
		}
		if num == 1 {
			key = validText(text)
		} else {
			value = validText(text)
		}
		b = b[n:]
	}
	return key, value, nil
}

// appendEntry adds an entry to an Item.
func appendEntry(b []byte, key, value string) []byte {
	entry := appendText(appendText(nil, 1, []byte(key)), 2, []byte(value))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	return protowire.AppendBytes(b, entry)
}

// itemFields copies all entries of an Item.
func itemFields(body []byte) (map[string]string, error) {
	fields := make(map[string]string)
	if err := eachField(body, func(k, v []byte) { fields[string(k)] = string(v) }); err != nil {
		return nil, err
	}
	return fields, nil
}

var errSaysNothing = errors.New("a command without task and config would delete all plugins of the agent")

// encodeCommand writes a Command. One that says nothing is refused.
func encodeCommand(c fleet.AgentCommand) ([]byte, error) {
	if c.Task == nil && len(c.Config) == 0 {
		return nil, errSaysNothing
	}
	out := &agentpb.Command{AgentCtrl: c.Ctrl}
	if t := c.Task; t != nil {
		out.Task = &agentpb.Task{DataType: int32(t.DataType), Name: t.Name, Data: t.Data, Token: t.Token}
	}
	for _, item := range c.Config {
		out.Config = append(out.Config, &agentpb.ConfigItem{
			Name: item.Name, Type: item.Type, Version: item.Version, Sha256: item.SHA256,
			Signature: item.Signature, DownloadUrl: item.DownloadURL, Detail: item.Detail,
		})
	}
	return proto.Marshal(out)
}
