// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"strconv"

	"muster/fleet"
)

// appendServices appends Elkeid's answer with a list of services, the bytes that
// encoding/json would make of it, at a tenth of the cost: every agent that looks
// for a server asks for it.
func appendServices(b []byte, list []fleet.Service) []byte {
	b = append(b, `{"msg":"ok","data":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendService(b, &list[i])
	}
	return append(b, "]}\n"...)
}

func appendService(b []byte, s *fleet.Service) []byte {
	b = appendJSONString(append(b, `{"name":`...), s.Name)
	b = appendJSONString(append(b, `,"ip":`...), s.IP)
	b = strconv.AppendInt(append(b, `,"port":`...), int64(s.Port), 10)
	b = strconv.AppendInt(append(b, `,"status":`...), int64(s.Status), 10)
	b = strconv.AppendInt(append(b, `,"create_at":`...), s.CreateAt, 10)
	b = strconv.AppendInt(append(b, `,"update_at":`...), s.UpdateAt, 10)
	b = strconv.AppendInt(append(b, `,"weight":`...), int64(s.Weight), 10)
	b = append(b, `,"extra":`...)
	if len(s.Extra) == 0 {
		return append(b, "{}}"...)
	}
	return append(appendJSON(b, s.Extra), '}')
}

// appendJSONString appends a string that is plain as it is, any other as
// encoding/json would.
func appendJSONString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return appendJSON(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// appendJSON is for what came as JSON, or is a string; both always encode.
func appendJSON(b []byte, v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})...)
}
