//go:build !linux

package acceptance

import (
	"os/exec"
	"testing"
)

// dieWithParent does nothing here: only Linux can tie a child to its parent.
func dieWithParent(*exec.Cmd) {}

// fullListener is for Linux, whose queues can be filled.
func fullListener(*testing.T) string { return "" }
