// Package report turns what a load test measured into words. Its functions are
// pure: the same Result gives the same report, and nothing is printed that the
// Result does not hold.
package report
