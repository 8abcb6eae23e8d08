package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"tandem/internal/loadtest"
	"tandem/internal/report"
)

type reportCmd struct {
	Files []string `arg:"" name:"results.json" help:"Result files of load, compare or search. Several are laid over one another."`
	HTML  string   `name:"html" xor:"form" placeholder:"report.html" help:"Write one HTML page here instead."`
	JSON  bool     `name:"json" xor:"form" help:"Print the figures as JSON instead, one object for each file."`
}

// Run renders result files anew.
func (c *reportCmd) Run() error {
	var names []string
	var files []*loadtest.File
	for _, path := range c.Files {
		file, err := readResult(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		names, files = append(names, filepath.Base(path)), append(files, file)
	}
	switch {
	case c.HTML != "":
		err := writeWhole(c.HTML, func(w io.Writer) error { return report.HTML(w, names, files) })
		if err != nil {
			return fmt.Errorf("--html: %w", err)
		}
		return nil
	case c.JSON:
		for _, file := range files {
			if err := report.JSON(os.Stdout, file); err != nil {
				return err
			}
		}
		return nil
	default:
		return report.TextAll(os.Stdout, names, files)
	}
}

func readResult(path string) (*loadtest.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return loadtest.ReadFile(file)
}
