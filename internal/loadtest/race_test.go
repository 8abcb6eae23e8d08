//go:build race

package loadtest

func init() { raced = true }
