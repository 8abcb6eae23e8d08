// Package store is what every Store of requests is made of, wherever it keeps
// its rows: the queue in which writes gather to share a commit, the notes that
// may be withdrawn from it, the tally of a transaction's counters, those who
// watch a request, and the forms in which columns and cursors carry values. It
// knows no SQL.
package store
