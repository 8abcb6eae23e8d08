//go:build race

package acceptance

// When the tests look for races, so does the program; and all takes several times
// as long.
func init() {
	buildFlags = append(buildFlags, "-race")
	*crashRounds /= 2
}

// raced says whether the program looks for races, which takes memory.
const raced = true
