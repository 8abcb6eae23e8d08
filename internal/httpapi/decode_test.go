package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"tandem"
)

// nested is a JSON value of so many levels.
func nested(levels int) string {
	return strings.Repeat(`{"a":`, levels-1) + `{"a":1}` + strings.Repeat(`}`, levels-1)
}

// ofSize is an object of exactly so many bytes.
func ofSize(n int) string {
	return `{"a":"` + strings.Repeat("x", n-len(`{"a":""}`)) + `"}`
}

func TestParseSubmissionTakesWhatTheContractAllows(t *testing.T) {
	for _, row := range []struct {
		name, body string
		complexity int
		workload   string
		data       string
	}{
		{"data alone gets the defaults", `{"data":{"a":1}}`, 1, "compute", `{"a":1}`},
		{"all fields", `{"data":{"a":1},"complexity":10,"workload":"wait"}`, 10, "wait", `{"a":1}`},
		{"in any order", `{"workload":"wait","complexity":2,"data":{"a":1}}`, 2, "wait", `{"a":1}`},
		{"space anywhere", " {\n\t\"data\" : { \"a\" : 1 } \r\n} \n", 1, "compute", `{ "a" : 1 }`},
		{"numbers keep their digits", `{"data":{"a":0.10,"b":1e400,"c":123456789012345678901234567890,"d":-0}}`, 1, "compute",
			`{"a":0.10,"b":1e400,"c":123456789012345678901234567890,"d":-0}`},
		{"an escaped name is the name", `{"\u0064ata":{"a":1}}`, 1, "compute", `{"a":1}`},
		{"brackets and quotes inside of strings", `{"data":{"a":"}]\"{[","b":"\\"}}`, 1, "compute", `{"a":"}]\"{[","b":"\\"}`},
		{"an empty key is a key", `{"data":{"":1}}`, 1, "compute", `{"":1}`},
		{"the same key on different levels", `{"data":{"a":{"a":{"a":1}}}}`, 1, "compute", `{"a":{"a":{"a":1}}}`},
		{"null, true, empty arrays and objects inside", `{"data":{"a":null,"b":true,"c":[],"d":{}}}`, 1, "compute", `{"a":null,"b":true,"c":[],"d":{}}`},
		{"ten levels", `{"data":` + nested(10) + `}`, 1, "compute", nested(10)},
		{"ten levels of which nine are arrays", `{"data":{"a":[[[[[[[[[1]]]]]]]]]}}`, 1, "compute", `{"a":[[[[[[[[[1]]]]]]]]]}`},
		{"10,000 bytes of data", `{"data":` + ofSize(10_000) + `}`, 1, "compute", ofSize(10_000)},
		{"10,000 bytes of data in a body of 64 KiB", `{"data":` + ofSize(10_000) + strings.Repeat(" ", tandem.MaxBody-10_009) + `}`, 1, "compute", ofSize(10_000)},
		{"complexity is one", `{"data":{"a":1},"complexity":1}`, 1, "compute", `{"a":1}`},
		{"a workload of 64 bytes", `{"data":{"a":1},"workload":"` + strings.Repeat("w", 64) + `"}`, 1, strings.Repeat("w", 64), `{"a":1}`},
		{"an escaped workload", `{"data":{"a":1},"workload":"w\u0061it"}`, 1, "wait", `{"a":1}`},
		{"keys that differ in case only", `{"data":{"a":1,"A":2}}`, 1, "compute", `{"a":1,"A":2}`},
		{"keys that look the same and are not", "{\"data\":{\"\u00e9\":1,\"e\u0301\":2}}", 1, "compute", "{\"\u00e9\":1,\"e\u0301\":2}"},
		{"the same key in two objects of an array", `{"data":{"a":[{"b":1},{"b":1}]}}`, 1, "compute", `{"a":[{"b":1},{"b":1}]}`},
		{"the same key first in an object and then behind it", `{"data":{"a":{"b":1},"b":1}}`, 1, "compute", `{"a":{"b":1},"b":1}`},
		{"data named inside of data", `{"data":{"data":{},"complexity":99,"callback_url":1}}`, 1, "compute", `{"data":{},"complexity":99,"callback_url":1}`},
		{"escapes stay escapes", `{"data":{"a":"\u0000\ud83d\ude00\/"}}`, 1, "compute", `{"a":"\u0000\ud83d\ude00\/"}`},
		{"text beyond ASCII", `{"data":{"ключ":"значение 😀"}}`, 1, "compute", `{"ключ":"значение 😀"}`},
		{"exponents of every form", `{"data":{"a":[1e1,1E+1,1e-1,-0.0E0]}}`, 1, "compute", `{"a":[1e1,1E+1,1e-1,-0.0E0]}`},
		{"twenty keys", `{"data":{` + manyKeys(20) + `}}`, 1, "compute", `{` + manyKeys(20) + `}`},
	} {
		for _, mode := range tandem.Modes {
			sub, err := parseSubmission([]byte(row.body), mode)
			if err != nil {
				t.Errorf("%s (%s): %v", row.name, mode, err)
				continue
			}
			if sub.Complexity != row.complexity || sub.Workload != row.workload || string(sub.Data) != row.data {
				t.Errorf("%s (%s): got complexity %d, workload %s, data %s", row.name, mode, sub.Complexity, sub.Workload, sub.Data)
			}
		}
	}
	longest := "http://a.b/" + strings.Repeat("x", maxCallbackURL-len("http://a.b/"))
	if sub, err := parseSubmission([]byte(`{"data":{"a":1},"callback_url":"`+longest+`"}`), tandem.Async); err != nil || sub.CallbackURL != longest {
		t.Errorf("a callback_url of %d bytes: %v", len(longest), err)
	}
	sub, err := parseSubmission([]byte(`{"data":{"a":1},"callback_url":"http://example.com/?a=b\u0026c"}`), tandem.Async)
	if err != nil || sub.CallbackURL != "http://example.com/?a=b&c" {
		t.Errorf("callback_url is %q, %v", sub.CallbackURL, err)
	}
}

func manyKeys(n int) string {
	var keys []string
	for i := range n {
		keys = append(keys, fmt.Sprintf(`"k%d":%d`, i, i))
	}
	return strings.Join(keys, ",")
}

func TestParseSubmissionRefusesTheRest(t *testing.T) {
	const ok = `"data":{"a":1}`
	for _, row := range []struct {
		name, body string
		status     int
		field      string // that the problem names
		says       string // in its message
	}{
		{"nothing", ``, 400, "body", "empty"},
		{"space only", " \n\t", 400, "body", "empty"},
		{"not JSON", `hello`, 400, "body", "at byte 1"},
		{"half an object", `{"data":{"a":1}`, 400, "body", "unexpected end"},
		{"trailing bytes", `{` + ok + `} x`, 400, "body", "after top-level value"},
		{"a second object", `{` + ok + `}{}`, 400, "body", "after top-level value"},
		{"a trailing comma", `{` + ok + `,}`, 400, "body", "not JSON"},
		{"a comment", `{` + ok + `/**/}`, 400, "body", "not JSON"},
		{"single quotes", `{'data':{}}`, 400, "body", "not JSON"},
		{"NaN", `{"data":{"a":NaN}}`, 400, "body", "not JSON"},
		{"Infinity", `{"data":{"a":Infinity}}`, 400, "body", "not JSON"},
		{"-Infinity", `{"data":{"a":-Infinity}}`, 400, "body", "not JSON"},
		{"a hexadecimal number", `{"data":{"a":0x10}}`, 400, "body", "not JSON"},
		{"a number with a leading zero", `{"data":{"a":01}}`, 400, "body", "not JSON"},
		{"a number with a leading plus", `{"data":{"a":+1}}`, 400, "body", "not JSON"},
		{"a raw line break in a string", "{\"data\":{\"a\":\"x\ny\"}}", 400, "body", "not JSON"},
		{"a byte order mark", "\xef\xbb\xbf{" + ok + "}", 400, "body", "not JSON"},
		{"broken UTF-8", "{\"data\":{\"a\":\"\xff\"}}", 400, "body", "UTF-8"},
		{"an array", `[{` + ok + `}]`, 422, "body", "must be a JSON object"},
		{"a string", `"data"`, 422, "body", "must be a JSON object"},
		{"a number", `1`, 422, "body", "must be a JSON object"},
		{"null", `null`, 422, "body", "must be a JSON object"},
		{"a NUL behind the object", `{` + ok + "}\x00", 400, "body", "after top-level value"},
		{"UTF-16", "{\x00\"\x00d\x00", 400, "body", "not JSON"},
		{"a number with nothing behind its point", `{"data":{"a":1.}}`, 400, "body", "not JSON"},
		{"a number with nothing behind its exponent", `{"data":{"a":1e}}`, 400, "body", "not JSON"},
		{"an escape that is none", `{"data":{"a":"\x"}}`, 400, "body", "not JSON"},
		{"half a surrogate escape", `{"data":{"a":"\ud8"}}`, 400, "body", "not JSON"},
		{"an object closed as an array", `{"data":{"a":1]}`, 400, "body", "not JSON"},
		{"a key without quotes", `{data:{"a":1}}`, 400, "body", "not JSON"},
		{"True", `{"data":{"a":True}}`, 400, "body", "not JSON"},
		{"a form", `data=1&complexity=2`, 400, "body", "at byte 1"},
		{"ten thousand and one levels", strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001), 400, "body", "depth"},
		{"a field of many levels that is not known", `{` + ok + `,"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, 422, "x", "unknown field"},

		{"no data", `{}`, 422, "data", "is required"},
		{"other fields and no data", `{"complexity":1}`, 422, "data", "is required"},
		{"data is null", `{"data":null}`, 422, "data", "must be a JSON object"},
		{"data is an array", `{"data":[1]}`, 422, "data", "must be a JSON object"},
		{"data is a string", `{"data":"a"}`, 422, "data", "must be a JSON object"},
		{"data is a number", `{"data":1}`, 422, "data", "must be a JSON object"},
		{"data is true", `{"data":true}`, 422, "data", "must be a JSON object"},
		{"data is JSON in a string", `{"data":"{\"a\":1}"}`, 422, "data", "must be a JSON object"},
		{"data has no key", `{"data":{}}`, 422, "data", "at least one key"},
		{"data has no key but space", `{"data":{ }}`, 422, "data", "at least one key"},
		{"data comes twice", `{` + ok + `,` + ok + `}`, 422, "data", "comes twice"},
		{"data is a byte too long", `{"data":` + ofSize(10_001) + `}`, 422, "data", "over the limit of 10000"},
		{"data is a level too deep", `{"data":` + nested(11) + `}`, 422, "data", "10 levels"},
		{"data is too deep in arrays", `{"data":{"a":[[[[[[[[[[1]]]]]]]]]]}}`, 422, "data", "10 levels"},
		{"a key comes twice in data", `{"data":{"a":1,"a":2}}`, 422, "data.a", "comes twice"},
		{"a key comes twice deep in data", `{"data":{"a":{"b":{"c":1,"c":1}}}}`, 422, "data.a.b.c", "comes twice"},
		{"a key comes twice in an array's object", `{"data":{"a":[1,{"b":1,"b":1}]}}`, 422, "data.a[].b", "comes twice"},
		{"a key comes twice once escaped", `{"data":{"a":1,"\u0061":2}}`, 422, "data.a", "comes twice"},
		{"the empty key comes twice", `{"data":{"":1,"":1}}`, 422, `data.""`, "comes twice"},
		{"a key comes twice on the tenth level", `{"data":` + strings.Replace(nested(10), `{"a":1}`, `{"b":1,"b":1}`, 1) + `}`, 422, "data.a.a.a.a.a.a.a.a.a.b", "comes twice"},
		{"the seventeenth key comes twice", `{"data":{` + manyKeys(17) + `,"k16":1}}`, 422, "data.k16", "comes twice"},
		{"the sixteenth key comes twice", `{"data":{` + manyKeys(16) + `,"k15":1}}`, 422, "data.k15", "comes twice"},
		{"the last of many keys comes twice", `{"data":{` + manyKeys(20) + `,"k3":1}}`, 422, "data.k3", "comes twice"},

		{"complexity is zero", `{` + ok + `,"complexity":0}`, 422, "complexity", "from 1 to 10"},
		{"complexity is eleven", `{` + ok + `,"complexity":11}`, 422, "complexity", "from 1 to 10"},
		{"complexity is negative", `{` + ok + `,"complexity":-1}`, 422, "complexity", "from 1 to 10"},
		{"complexity has a fraction", `{` + ok + `,"complexity":1.5}`, 422, "complexity", "integer"},
		{"complexity is 1.0", `{` + ok + `,"complexity":1.0}`, 422, "complexity", "integer"},
		{"complexity has an exponent", `{` + ok + `,"complexity":1e0}`, 422, "complexity", "integer"},
		{"complexity is a string", `{` + ok + `,"complexity":"1"}`, 422, "complexity", "integer"},
		{"complexity is null", `{` + ok + `,"complexity":null}`, 422, "complexity", "integer"},
		{"complexity is true", `{` + ok + `,"complexity":true}`, 422, "complexity", "integer"},
		{"complexity is an object", `{` + ok + `,"complexity":{}}`, 422, "complexity", "integer"},
		{"complexity overflows", `{` + ok + `,"complexity":99999999999999999999}`, 422, "complexity", "from 1 to 10"},
		{"complexity comes twice", `{` + ok + `,"complexity":1,"complexity":1}`, 422, "complexity", "comes twice"},

		{"workload is empty", `{` + ok + `,"workload":""}`, 422, "workload", "must not be empty"},
		{"workload is null", `{` + ok + `,"workload":null}`, 422, "workload", "must be a string"},
		{"workload is a number", `{` + ok + `,"workload":1}`, 422, "workload", "must be a string"},
		{"workload is an object", `{` + ok + `,"workload":{}}`, 422, "workload", "must be a string"},
		{"workload comes twice", `{` + ok + `,"workload":"wait","workload":"wait"}`, 422, "workload", "comes twice"},
		{"workload is too long", `{` + ok + `,"workload":"` + strings.Repeat("w", 65) + `"}`, 422, "workload", "longer than 64"},

		{"callback_url is empty", `{` + ok + `,"callback_url":""}`, 422, "callback_url", "must not be empty"},
		{"callback_url is null", `{` + ok + `,"callback_url":null}`, 422, "callback_url", "must be a string"},
		{"callback_url is an array", `{` + ok + `,"callback_url":["http://a.b"]}`, 422, "callback_url", "must be a string"},
		{"callback_url is too long", `{` + ok + `,"callback_url":"http://a.b/` + strings.Repeat("x", 2048-10) + `"}`, 422, "callback_url", "longer than 2048"},
		{"callback_url comes twice", `{` + ok + `,"callback_url":"http://a.b","callback_url":"http://a.b"}`, 422, "callback_url", "comes twice"},

		{"a field in another case", `{"Data":{"a":1}}`, 422, "Data", "unknown field"},
		{"a field in capitals", `{` + ok + `,"COMPLEXITY":1}`, 422, "COMPLEXITY", "unknown field"},
		{"a field that is not known", `{` + ok + `,"priority":1}`, 422, "priority", "unknown field"},
		{"an empty field name", `{` + ok + `,"":1}`, 422, `""`, "unknown field"},
		{"a field with a space behind it", `{` + ok + `,"data ":1}`, 422, "data ", "unknown field"},
		{"a field that is not known before one that is wrong", `{"x":1,"data":1}`, 422, "x", "unknown field"},
		{"a field that is not known twice", `{` + ok + `,"x":1,"x":1}`, 422, "x", "unknown field"},
		{"a field name with a line break", `{` + ok + `,"a\nb":1}`, 422, "a?b", "unknown field"},
		{"a very long field name", `{` + ok + `,"` + strings.Repeat("f", 500) + `":1}`, 422, strings.Repeat("f", 64) + "...", "unknown field"},
	} {
		_, err := parseSubmission([]byte(row.body), tandem.Async)
		if err == nil {
			t.Errorf("%s was taken", row.name)
			continue
		}
		p := problemOf(err)
		if p.Status != row.status || !strings.Contains(p.Detail, row.says) {
			t.Errorf("%s: got %d %q, want %d and %q in it", row.name, p.Status, p.Detail, row.status, row.says)
		}
		if len(p.Errors) != 1 || p.Errors[0].Field != row.field || !strings.HasPrefix(p.Detail, row.field+": ") {
			t.Errorf("%s: the problem names %+v and says %q, want the field %s", row.name, p.Errors, p.Detail, row.field)
		}
	}
	_, err := parseSubmission([]byte(`{"data":{"a":1},"callback_url":"http://example.com"}`), tandem.Sync)
	if p := problemOf(err); p.Status != 422 || p.Errors[0].Field != "callback_url" || !strings.Contains(p.Detail, "POST /async") {
		t.Errorf("callback_url on POST /sync: %+v", p)
	}
}

func TestReadBody(t *testing.T) {
	for _, row := range []struct {
		name, contentType, encoding string
		size                        int
		status                      int // 0: it is taken
	}{
		{"plain", "application/json", "", 10, 0},
		{"with a charset in quotes", `application/json; charset="utf-8"`, "", 10, 0},
		{"with another parameter", "application/json; profile=x", "", 10, 0},
		{"with a charset", "application/json; charset=utf-8", "", 10, 0},
		{"in capitals", "APPLICATION/JSON; CHARSET=UTF-8", "", 10, 0},
		{"as large as may be", "application/json", "", tandem.MaxBody, 0},
		{"a byte too large", "application/json", "", tandem.MaxBody + 1, 413},
		{"no content type", "", "", 10, 415},
		{"text", "text/plain", "", 10, 415},
		{"a form", "application/x-www-form-urlencoded", "", 10, 415},
		{"a JSON of some kind", "application/vnd.api+json", "", 10, 415},
		{"another charset", "application/json; charset=latin1", "", 10, 415},
		{"a broken content type", "application/json; charset", "", 10, 415},
		{"another charset of Unicode", "application/json; charset=utf-16", "", 10, 415},
		{"JSON lines", "application/jsonl", "", 10, 415},
		{"anything", "*/*", "", 10, 415},
		{"two at once", "application/json, text/plain", "", 10, 415},
		{"compressed", "application/json", "gzip", 10, 415},
		{"not compressed, it says", "application/json", "identity", 10, 415},
	} {
		for _, sized := range []bool{true, false} {
			body := bytes.Repeat([]byte("x"), row.size)
			r := httptest.NewRequest(http.MethodPost, "/sync", bytes.NewReader(body))
			r.Header.Set("Content-Type", row.contentType)
			if row.encoding != "" {
				r.Header.Set("Content-Encoding", row.encoding)
			}
			if !sized {
				r.ContentLength = -1 // as chunks come
			}
			got, err := readBody(r)
			if row.status == 0 && (err != nil || !bytes.Equal(got, body)) {
				t.Errorf("%s (sized %v): %d bytes, %v", row.name, sized, len(got), err)
			}
			if row.status != 0 && (err == nil || problemOf(err).Status != row.status) {
				t.Errorf("%s (sized %v): %v, want %d", row.name, sized, err, row.status)
			}
		}
	}
}

// FuzzParseSubmission: whatever is taken is JSON to the standard library too,
// holds data as it was sent, and obeys the limits.
func FuzzParseSubmission(f *testing.F) {
	for _, seed := range []string{
		`{"data":{"a":1}}`, `{"data":{"a":[{"b":"\u0061"}]},"complexity":3,"workload":"wait","callback_url":"http://a.b"}`,
		`{"data":{"a":1,"a":2}}`, `{"data":{"\\":"\""}}`, `{"data":{"a":1},"data":{"b":1}}`, "\xef\xbb\xbf{}", `{"data":{"a":"\ud800"}}`, ` { "data" : { } } `, `{"data":{"a":1e400}}`, `[`, `{"data":` + nested(11) + `}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		sub, err := parseSubmission(body, tandem.Async)
		if err != nil {
			if p := problemOf(err); p.Status != 400 && p.Status != 422 {
				t.Fatalf("%q is answered with %d: %v", body, p.Status, err)
			}
			return
		}
		var standard struct {
			Data       json.RawMessage
			Complexity *int
			Workload   *string
		}
		if err := json.Unmarshal(body, &standard); err != nil {
			t.Fatalf("%q was taken, and is no JSON: %v", body, err)
		}
		if !bytes.Contains(body, sub.Data) || !bytes.Equal(standard.Data, sub.Data) {
			t.Fatalf("%q: data is %q, to the standard library %q", body, sub.Data, standard.Data)
		}
		var object map[string]any
		if err := json.Unmarshal(sub.Data, &object); err != nil && !isRange(err) || err == nil && len(object) == 0 {
			t.Fatalf("%q: data is no object with a key: %v", sub.Data, err)
		}
		if len(sub.Data) > tandem.MaxData || sub.Complexity < 1 || sub.Complexity > tandem.MaxComplexity || sub.Workload == "" {
			t.Fatalf("%q: taken as %+v", body, sub)
		}
		if standard.Complexity != nil && *standard.Complexity != sub.Complexity {
			t.Fatalf("%q: complexity is %d, to the standard library %d", body, sub.Complexity, *standard.Complexity)
		}
	})
}

// isRange: the standard library reads numbers as float64, which data need not fit.
func isRange(err error) bool {
	_, ok := errors.AsType[*json.UnmarshalTypeError](err)
	return ok
}
