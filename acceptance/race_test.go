//go:build race

package acceptance

// When the tests look for races, so does the program.
func init() { buildFlags = append(buildFlags, "-race") }
