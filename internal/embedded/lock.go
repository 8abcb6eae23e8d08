package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// holder is who has a database open, as the lock file tells it.
type holder struct {
	PID   int       `json:"pid"`
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
}

// errLocked is what tryLock returns when another process holds the lock.
var errLocked = errors.New("locked")

// lockFile makes this process the only one that serves the database at path,
// by a lock on the file beside it. The operating system ends the lock with the
// process, however that ends.
func lockFile(path string) (unlock func() error, err error) {
	file, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w; check that its folder exists and can be written", path, err)
	}
	if err := tryLock(file); err != nil {
		defer file.Close()
		if !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("lock the database %s: %w", path, err)
		}
		var by holder
		if text, err := io.ReadAll(io.LimitReader(file, 4096)); err != nil || json.Unmarshal(text, &by) != nil {
			return nil, fmt.Errorf("the database %s is in use by another process; stop that first", path)
		}
		return nil, fmt.Errorf("the database %s is in use by process %d on %s since %s; stop that first",
			path, by.PID, by.Host, by.Since.Format(time.RFC3339))
	}
	host, err := os.Hostname()
	if err != nil {
		host = "an unnamed host"
	}
	text, err := json.Marshal(holder{os.Getpid(), host, time.Now().UTC().Truncate(time.Second)})
	if err == nil {
		err = file.Truncate(0)
	}
	if err == nil {
		_, err = file.WriteAt(text, 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the database %s: %w", path, err), file.Close())
	}
	return file.Close, nil
}
