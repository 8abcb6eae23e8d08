// Package loadtest drives both patterns of a service with the same work and
// keeps account of every request. It receives and verifies the callbacks
// itself, in the same process and by the same clock. What a run measured is a
// Result, and only that: package report turns it into words.
package loadtest
