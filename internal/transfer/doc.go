// Package transfer moves a service from a SQLite file to a Postgres: its whole
// history, what it still owes included. It can be cut off at any moment and goes
// on from there, and believes nothing that it has not read back.
package transfer
