//go:build !race

package storetest

// longBacklog is several times as many requests as a backend holds in memory.
const longBacklog = 5000
