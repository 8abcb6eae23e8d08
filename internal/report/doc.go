// Package report turns result files into words: for a terminal, as JSON for
// scripts, and as one HTML page. Its functions are pure: the same files give
// the same report, and nothing is shown that a file does not hold. What could
// not be measured is said to be so. Texts of a file, such as names and reasons,
// are not trusted: they reach neither the terminal nor the page unescaped.
package report
