//go:build !linux

package engine

// letOthersFirst does nothing: only Linux has a priority for each thread that a
// program may set without asking.
func letOthersFirst() {}
