package embedded

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem"
)

var (
	damageTrials = flag.Int("damage.trials", 150, "trials of each kind of damage to a file")
	damageSeed   = flag.Uint64("damage.seed", uint64(time.Now().UnixNano()), "seed of the damage; a failure prints it")
)

// written is a database as a crash leaves it: part of it in the file, part of
// it in the WAL only.
type written struct {
	file, wal []byte
	ids       []string // of the requests, in the order they were committed
	inFile    int      // how many of them are in the file
}

// writeDatabase accepts requests one after the other, with a checkpoint on the
// way, and takes the files from under the backend.
func writeDatabase(t *testing.T) written {
	t.Helper()
	path := filepath.Join(t.TempDir(), "requests.db")
	b := openAt(t, path, Options{})
	var w written
	for i := range 120 {
		req := kept(time.Now())
		if i%3 == 0 {
			req.Callback = tandem.Callback{URL: fmt.Sprintf("http://host%d.example/hook", i%7), State: tandem.CallbackPending, MaxAttempts: 3}
		}
		if err := b.Accept(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		w.ids = append(w.ids, req.ID)
		if i == 69 {
			withFile(t, path, func(db *sql.DB) {
				var busy, frames, moved int
				if err := db.QueryRow(`PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &frames, &moved); err != nil || busy != 0 {
					t.Fatalf("checkpoint: busy %d, %v", busy, err)
				}
			})
			w.inFile = i + 1
		}
	}
	var err error
	if w.file, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if w.wal, err = os.ReadFile(path + "-wal"); err != nil {
		t.Fatal(err)
	}
	if len(w.wal) < 100<<10 {
		t.Fatalf("the WAL has %d bytes, which shows too little", len(w.wal))
	}
	return w
}

// open puts the files in a place of their own and opens them. It returns the
// ids on record in their order, once it was inspected, or why it was refused.
func (w written) open(t *testing.T, file, wal []byte, inspect func(*testing.T, *Backend)) (ids []string, refused error) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "requests.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if wal != nil {
		if err := os.WriteFile(path+"-wal", wal, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := Open(context.WithoutCancel(t.Context()), path, Options{})
	if err != nil {
		if text := err.Error(); !strings.Contains(text, path) || !strings.Contains(text, "tandem restore") || strings.Contains(text, "\n") {
			t.Errorf("the refusal does not name the file and the way out in one line: %s", text)
		}
		return nil, err
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	err = b.each(t.Context(), `SELECT id FROM requests ORDER BY seq`, nil, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil {
		t.Fatalf("it was opened and cannot be read: %v", err)
	}
	if inspect != nil {
		inspect(t, b)
	}
	if err := b.Accept(t.Context(), kept(time.Now())); err != nil {
		t.Errorf("it was opened and takes no request: %v", err)
	}
	return ids, nil
}

// trials runs each trial with a source of its own, that a seed reproduces.
func trials(t *testing.T, trial func(*rand.Rand)) {
	t.Helper()
	for i := range *damageTrials {
		trial(rand.New(rand.NewPCG(*damageSeed, uint64(i))))
		if t.Failed() {
			t.Fatalf("in trial %d; -damage.seed=%d reproduces it", i, *damageSeed)
		}
	}
}

func TestATruncatedWALLeavesAPrefixOfWhatWasCommitted(t *testing.T) {
	t.Parallel()
	w := writeDatabase(t)
	if ids, err := w.open(t, w.file, w.wal, soundCounters); err != nil || !slices.Equal(ids, w.ids) {
		t.Fatalf("undamaged, %d of %d are on record, %v", len(ids), len(w.ids), err)
	}
	lengths := make(map[int]int)
	trials(t, func(random *rand.Rand) {
		ids, err := w.open(t, w.file, w.wal[:random.IntN(len(w.wal))], soundCounters)
		if err != nil {
			t.Errorf("refused: %v", err)
			return
		}
		if len(ids) < w.inFile || !slices.Equal(ids, w.ids[:min(len(ids), len(w.ids))]) {
			t.Errorf("%d requests are on record and are no prefix of those committed, of which %d are in the file", len(ids), w.inFile)
		}
		lengths[len(ids)]++
	})
	if len(lengths) < min(5, *damageTrials/4) {
		t.Errorf("the WAL was cut to %v requests, which shows too little", lengths)
	}
	t.Logf("%d trials: a prefix in each, of %d different lengths", *damageTrials, len(lengths))
}

func TestADamagedWALLeavesAPrefixOfWhatWasCommitted(t *testing.T) {
	t.Parallel()
	w := writeDatabase(t)
	whole := 0
	trials(t, func(random *rand.Rand) {
		wal := slices.Clone(w.wal)
		scribble(random, wal)
		ids, err := w.open(t, w.file, wal, soundCounters)
		if err != nil {
			t.Errorf("refused: %v", err)
			return
		}
		if len(ids) < w.inFile || !slices.Equal(ids, w.ids[:min(len(ids), len(w.ids))]) {
			t.Errorf("%d requests are on record and are no prefix of those committed", len(ids))
		}
		if len(ids) == len(w.ids) {
			whole++
		}
	})
	if whole == *damageTrials {
		t.Error("no damage had an effect, which shows too little")
	}
	t.Logf("%d trials: a prefix in each, all of it in %d", *damageTrials, whole)
}

func TestADamagedPageIsRefusedOrChangesNoOrder(t *testing.T) {
	t.Parallel()
	w := writeDatabase(t)
	refused := 0
	trials(t, func(random *rand.Rand) {
		file := slices.Clone(w.file)
		scribble(random, file)
		wal := w.wal
		if random.IntN(2) == 0 {
			wal = nil // the damage is not covered by what the WAL holds
		}
		// The value of a counter is no part of an index: its damage is the doctor's to find.
		ids, err := w.open(t, file, wal, nil)
		if err != nil {
			refused++
			return
		}
		want := w.ids
		if wal == nil {
			want = w.ids[:w.inFile]
		}
		if !slices.Equal(ids, want) {
			t.Errorf("it was opened with %d requests, want %d: %v", len(ids), len(want), firstDifference(ids, want))
		}
	})
	if refused == 0 || refused == *damageTrials {
		t.Errorf("%d of %d were refused, which shows too little", refused, *damageTrials)
	}
	t.Logf("%d trials: refused in %d, else every request in its order", *damageTrials, refused)
}

func firstDifference(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("number %d is %q, want %q", i, got[i], want[i])
		}
	}
	return "one is longer"
}

// scribble damages content as a torn write, a bad sector or a stray write do:
// zeros or noise over 1 to 4096 bytes, or one flipped bit.
func scribble(random *rand.Rand, content []byte) {
	at := random.IntN(len(content))
	end := min(len(content), at+1+random.IntN(4096))
	switch random.IntN(3) {
	case 0:
		clear(content[at:end])
	case 1:
		for i := at; i < end; i++ {
			content[i] = byte(random.Uint32())
		}
	case 2:
		content[at] ^= 1 << random.IntN(8)
	}
}
