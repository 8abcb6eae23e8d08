package postgrestest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"sync"
	"syscall"
)

// unprivileged is who runs the Postgres programs when the tests run as root;
// nil otherwise.
var unprivileged = sync.OnceValues(func() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, fmt.Errorf("the tests run as root, which Postgres refuses, and there is no user postgres or nobody")
})

// asUser has a command run as the unprivileged user, and end with the thread
// that starts it.
func asUser(cmd *exec.Cmd) {
	credential, _ := unprivileged() // giveAway has met the error
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential, Pdeathsig: syscall.SIGQUIT}
}

// giveAway makes the unprivileged user the owner of files.
func giveAway(paths ...string) error {
	credential, err := unprivileged()
	if err != nil || credential == nil {
		return err
	}
	for _, path := range paths {
		if err := os.Chown(path, int(credential.Uid), int(credential.Gid)); err != nil {
			return fmt.Errorf("give %s to an unprivileged user: %w", path, err)
		}
	}
	return nil
}
