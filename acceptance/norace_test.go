//go:build !race

package acceptance

// raced says whether the program looks for races, which takes memory.
const raced = false
