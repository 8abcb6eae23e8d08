//go:build race

package embedded

// Looking for races, a trial takes ten times as long, and some show as much as many.
func init() { *damageTrials /= 10 }
