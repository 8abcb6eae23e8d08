// Package postgrestest gives tests a real Postgres: the one that
// TEST_DATABASE_URL names, else a throwaway cluster that it starts from the
// Postgres programs on the machine, one for each test process. Every test has a
// database of its own. It is for tests and benchmarks only.
package postgrestest
