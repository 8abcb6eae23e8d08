package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"tandem/internal/loadtest"
	"tandem/internal/report"
)

// progressTo returns what writes progress: on a terminal lines that change in
// place, elsewhere a line every two seconds.
func progressTo(f *os.File) func(loadtest.Progress) {
	var since loadtest.Progress
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil { // it is no terminal
		return func(p loadtest.Progress) {
			if p.Elapsed < since.Elapsed {
				since = loadtest.Progress{} // another run
			}
			if report.Plain(p, since) {
				fmt.Fprintln(f, report.Live(p, since, 0)[0])
				since = p
			}
		}
	}
	drawn := 0
	return func(p loadtest.Progress) {
		if drawn > 1 {
			fmt.Fprintf(f, "\x1b[%dA", drawn-1) // up to the first line
		}
		lines := report.Live(p, since, width)
		for i, line := range lines {
			lines[i] = "\r\x1b[K" + line // over what stood there
		}
		fmt.Fprint(f, strings.Join(lines, "\n"))
		if drawn, since = len(lines), p; p.Done {
			fmt.Fprintln(f)
			drawn, since = 0, loadtest.Progress{}
		}
	}
}
