// Package engine is the life of a request: Do runs it for a caller who waits,
// Accept promises it to one who does not, and the two steps, Process and
// Deliver, keep that promise. It says what is done to a request; a Backend
// says where the request is kept and when a step runs.
package engine
