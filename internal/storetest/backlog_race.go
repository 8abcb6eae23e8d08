//go:build race

package storetest

// longBacklog is more requests than a backend holds in memory. Looking for races,
// each takes ten times as long.
const longBacklog = 2500
