// Package embedded is the Backend of one process: requests live in a SQLite
// file, one writer groups the commits of all callers, and the steps run on
// goroutines of this process.
//
// The file is the truth. What is held in memory - the head of the backlog, the
// callbacks due next - is a bounded cache of it, and a restart finds
// everything that is not settled on disk.
package embedded
