//go:build !linux

package postgrestest

import "os/exec"

// asUser leaves a command to the user who runs the tests.
func asUser(*exec.Cmd) {}

func giveAway(...string) error { return nil }
