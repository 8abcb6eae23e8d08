// Package distributed is the Backend of any number of processes that share one
// Postgres. Requests are rows; River is the queue that says which process takes
// which step when; a process has one writer, which groups the commits of all its
// callers.
//
// The row is the truth, and a River job only a reason to look at it: every step
// reads the row first, and every write is guarded by the status and epoch it
// expects. So a job that comes twice, late or for nothing does no harm, and one that
// is lost is made again.
package distributed
