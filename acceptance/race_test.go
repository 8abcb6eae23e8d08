//go:build race

package acceptance

// When the tests look for races, so does the program.
func init() { buildFlags = append(buildFlags, "-race") }

// raced says whether the program looks for races, which takes memory.
const raced = true
