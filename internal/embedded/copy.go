package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Backup copies the database at path, which a running service may have open, to
// a file of its own at dest: all that was committed when it began, and nothing
// after. Dest must not exist; it appears whole, checked and on disk, or not at
// all. It holds the keys and secrets of the service, and only its owner may
// read it.
func Backup(ctx context.Context, path, dest string) (bytes int64, err error) {
	path, err = existingFile(path)
	if err != nil {
		return 0, err
	}
	if err := absent(dest); err != nil {
		return 0, err
	}
	db, err := openPlain(path, 1)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if err := readable(ctx, db); err != nil {
		return 0, explain(path, err)
	}
	var vacuum int
	if err := db.QueryRowContext(ctx, `PRAGMA auto_vacuum`).Scan(&vacuum); err != nil {
		return 0, explain(path, err)
	}
	if vacuum != incrementalVacuum { // the file is older than that; the copy will be able to give back free pages
		if _, err := db.ExecContext(ctx, `PRAGMA auto_vacuum = INCREMENTAL`); err != nil {
			return 0, explain(path, err)
		}
	}
	temp, err := os.CreateTemp(filepath.Dir(dest), filepath.Base(dest)+".*")
	if err != nil {
		return 0, fmt.Errorf("make the copy: %w", err)
	}
	defer os.Remove(temp.Name()) // gone already if all went well
	defer temp.Close()
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, temp.Name()); err != nil {
		return 0, fmt.Errorf("copy it to %s: %w", dest, explain(path, err))
	}
	if err := checkCopy(ctx, temp.Name()); err != nil {
		return 0, fmt.Errorf("the copy of %s is not good: %w", path, err)
	}
	info, err := temp.Stat()
	if err != nil {
		return 0, fmt.Errorf("look at the copy: %w", err)
	}
	if err := temp.Sync(); err != nil {
		return 0, fmt.Errorf("write the copy to disk: %w", err)
	}
	if err := putNew(temp.Name(), dest); err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Restore puts a copy that Backup made in the place of the database at path,
// once it has checked it. No service may have that open. If there is a database,
// it is an error unless replace is set: then that one is kept beside it, under
// the name that is returned.
func Restore(ctx context.Context, copied, path string, replace bool) (kept string, err error) {
	copied, err = existingFile(copied)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(copied + "-wal"); err == nil {
		return "", fmt.Errorf("%s has a WAL beside it: it is the database of a service and no backup; make one with tandem backup", copied)
	}
	path = withoutLinks(path)
	if same, err := sameFile(copied, path); err != nil {
		return "", err
	} else if same {
		return "", fmt.Errorf("the backup and the database are the same file, %s", path)
	}
	unlock, err := lockFile(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	_, err = os.Lstat(path)
	exists := err == nil
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("look at the database: %w", err)
	case exists && !replace:
		return "", fmt.Errorf("there is a database %s already: give --replace to keep it under another name and put the backup in its place", path)
	}

	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return "", fmt.Errorf("copy the backup: %w", err)
	}
	defer os.Remove(temp.Name()) // gone already if all went well
	defer temp.Close()
	if err := fill(temp, copied); err != nil {
		return "", fmt.Errorf("copy the backup: %w", err)
	}
	if err := checkCopy(ctx, temp.Name()); err != nil { // what is put in place is what is checked
		return "", fmt.Errorf("the backup %s is not good: %w", copied, err)
	}
	if err := temp.Sync(); err != nil {
		return "", fmt.Errorf("write the copy to disk: %w", err)
	}
	if kept, err = putAside(path, exists); err != nil {
		return "", err
	}
	return kept, putNew(temp.Name(), path)
}

// putAside renames the database at path, and returns its new name. The WAL goes
// first, also of a database that is gone: beside another file it would be taken
// for that one's.
func putAside(path string, exists bool) (kept string, err error) {
	kept = path + ".replaced-" + time.Now().UTC().Format("20060102T150405.000")
	for _, part := range []string{"-wal", "-shm", ""} {
		err := os.Rename(path+part, kept+part)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("put the old database aside: %w", err)
		}
	}
	if !exists {
		kept = ""
	}
	return kept, nil
}

// checkCopy returns an error if a file is not a whole database that this
// program can read.
func checkCopy(ctx context.Context, path string) error {
	db, err := openPlain(path, 1, "query_only(1)")
	if err != nil {
		return err
	}
	defer db.Close()
	if err := readable(ctx, db); err != nil {
		return explain(path, err)
	}
	faults, err := integrityFaults(ctx, db)
	if err != nil {
		return explain(path, err)
	}
	if len(faults) > 0 {
		return errors.New("it is damaged: " + strings.Join(faults, "; "))
	}
	return nil
}

func fill(file *os.File, from string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	_, err = io.Copy(file, source)
	return err
}

func absent(path string) error {
	_, err := os.Lstat(path)
	switch {
	case err == nil:
		return fmt.Errorf("%s exists already, and is not overwritten: choose another name", path)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look at %s: %w", path, err)
	}
	return nil
}

// putNew gives a file its name, on disk, unless there is one of that name. A
// hard link does both at once; where there are none the file is renamed.
func putNew(temp, path string) error {
	err := os.Link(temp, path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return absent(path)
	case err != nil:
		if err := absent(path); err != nil {
			return err
		}
		if err := os.Rename(temp, path); err != nil {
			return fmt.Errorf("name the copy: %w", err)
		}
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write the name to disk: %w", err)
	}
	defer folder.Close()
	_ = folder.Sync() // windows cannot, and does not need to
	return nil
}

func sameFile(a, b string) (bool, error) {
	one, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	other, err := os.Stat(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(one, other), nil
}
