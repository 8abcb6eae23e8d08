package transfer

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"tandem/internal/distributed"
)

// uniform brings a row, as either database gives it, to the form it is written
// and compared in: nil, int64, bool, string or []byte. Text that Postgres does
// not take is made fit for it as the service does.
func (t *table) uniform(row []any) error {
	for i, c := range t.columns {
		v, ok := uniform(c.kind, row[i])
		if !ok {
			return fmt.Errorf("column %s of %s holds a %T", c.name, t.name, row[i])
		}
		row[i] = v
	}
	return nil
}

func uniform(k kind, v any) (any, bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case int64:
		if k == flag {
			return v != 0, v == 0 || v == 1
		}
		return v, k == number
	case int32:
		return int64(v), k == number
	case bool:
		return v, k == flag
	case string:
		if k == data {
			return []byte(v), true
		}
		return distributed.Clean(v), k == text
	case []byte:
		if k == text {
			return distributed.Clean(string(v)), true
		}
		return v, k == data
	default:
		return nil, false
	}
}

// checksum is of rows in any order: how many they are, and the sum of their
// SHA-256 hashes, taken as four numbers each.
type checksum struct {
	rows int64
	sum  [4]uint64
}

// add adds a uniform row.
func (c *checksum) add(row []any) {
	var text []byte
	sized := func(tag byte, b []byte) {
		text = binary.AppendUvarint(append(text, tag), uint64(len(b)))
		text = append(text, b...)
	}
	for _, v := range row {
		switch v := v.(type) {
		case nil:
			text = append(text, 'n')
		case int64:
			text = binary.BigEndian.AppendUint64(append(text, 'i'), uint64(v))
		case bool:
			if v {
				text = append(text, 't')
			} else {
				text = append(text, 'f')
			}
		case string:
			sized('s', []byte(v))
		case []byte:
			sized('b', v)
		}
	}
	hash := sha256.Sum256(text)
	for i := range c.sum {
		c.sum[i] += binary.BigEndian.Uint64(hash[8*i:])
	}
	c.rows++
}

// String is what people may compare.
func (c checksum) String() string {
	return fmt.Sprintf("%016x%016x%016x%016x", c.sum[0], c.sum[1], c.sum[2], c.sum[3])
}
