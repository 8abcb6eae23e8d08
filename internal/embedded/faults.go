package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// explain adds to a fault of SQLite what it means for whoever runs the service:
// which file, and the way out.
func explain(path string, err error) error {
	if _, explained := errors.AsType[*fileFault](err); explained {
		return err
	}
	fault, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	wayOut := ""
	switch fault.Code() & 0xff {
	case sqlite3.SQLITE_CORRUPT:
		wayOut = "it is damaged: see what tandem doctor says, and put a backup in its place with tandem restore"
	case sqlite3.SQLITE_NOTADB:
		wayOut = "it is no database, or its first page is damaged: name another file, or put a backup in its place with tandem restore"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		wayOut = "it cannot be written: make the file and its folder writable for this user"
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH:
		wayOut = "it cannot be opened: check that it is a file and that this user may read and write it and its folder"
	case sqlite3.SQLITE_FULL:
		wayOut = "there is no space left: make room on its file system"
	case sqlite3.SQLITE_IOERR:
		wayOut = "reading or writing it failed: check its file system"
	case sqlite3.SQLITE_ERROR: // our statements do not fit its tables
		wayOut = "its schema is not as tandem made it, because it is damaged or was changed: put a backup in its place with tandem restore"
	default:
		return err
	}
	said := strings.Join(strings.Fields(err.Error()), " ") // SQLite shows SQL as it was written
	return &fileFault{fmt.Sprintf("the database %s: %s; %s", path, said, wayOut), err}
}

// damaged reports whether SQLite says that what it read cannot be right.
func damaged(err error) bool {
	fault, ok := errors.AsType[*sqlite.Error](err)
	return ok && fault.Code()&0xff == sqlite3.SQLITE_CORRUPT
}

// fileFault is a fault of SQLite, explained.
type fileFault struct {
	text string
	err  error
}

func (f *fileFault) Error() string { return f.text }
func (f *fileFault) Unwrap() error { return f.err }

// checkedAtStart is how large a file may be for Open to check all of it: about
// a second's work. Of larger ones, damage is found when it is met, or by Examine.
const checkedAtStart = 64 << 20

// checkFile returns an error if a file that is not too large is damaged. What
// SQLite cannot see is the damage of a value that no index holds: it has no
// checksums in the file, only in the WAL.
func checkFile(ctx context.Context, db *sql.DB, path string) error {
	if info, err := os.Stat(path); err == nil && info.Size() > checkedAtStart {
		return nil
	}
	faults, err := integrityFaults(ctx, db)
	if err != nil {
		return fmt.Errorf("check it: %w", err)
	}
	if len(faults) > 0 {
		return fmt.Errorf("the database %s is damaged: %s; see what tandem doctor says, and put a backup in its place with tandem restore",
			path, strings.Join(faults, "; "))
	}
	return nil
}
