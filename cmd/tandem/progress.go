package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"tandem/internal/loadtest"
	"tandem/internal/report"
)

// progressTo returns what writes progress: on a terminal lines that change in
// place, elsewhere a line every two seconds.
func progressTo(f *os.File) func(loadtest.Progress) {
	if term.IsTerminal(int(f.Fd())) {
		return redrawn(f, func() int {
			width, _, err := term.GetSize(int(f.Fd()))
			if err != nil {
				return 80 // it is one, and does not say
			}
			return width
		})
	}
	var since loadtest.Progress
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

// redrawn returns what writes progress to a terminal, whose width may change.
func redrawn(w io.Writer, width func() int) func(loadtest.Progress) {
	var since loadtest.Progress
	drawn := 0
	return func(p loadtest.Progress) {
		up := "\r"
		if drawn > 1 {
			up = fmt.Sprintf("\r\x1b[%dA", drawn-1) // to the first line
		}
		lines := report.Live(p, since, width())
		fmt.Fprint(w, up+"\x1b[J"+strings.Join(lines, "\r\n")) // over what stood there
		if drawn, since = len(lines), p; p.Done {
			fmt.Fprint(w, "\r\n")
			drawn, since = 0, loadtest.Progress{}
		}
	}
}
