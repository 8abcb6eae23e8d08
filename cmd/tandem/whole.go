package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// wholeFile is a file in the making. Others see it under its name once it is
// whole, and what was there before until then.
type wholeFile struct {
	file *os.File
	path string
	temp bool // file is to be renamed to path; else it is no file that could be, such as a pipe
}

// createWhole begins a file. It is to be finished or discarded.
func createWhole(path string) (*wholeFile, error) {
	if there, err := filepath.EvalSymlinks(path); err == nil {
		path = there
	}
	info, err := os.Stat(path)
	var f *wholeFile
	switch {
	case err == nil && info.IsDir():
		return nil, fmt.Errorf("%s is a folder", path)
	case err == nil && !info.Mode().IsRegular():
		f = &wholeFile{path: path}
		f.file, err = os.OpenFile(path, os.O_WRONLY, 0)
	default:
		f = &wholeFile{path: path, temp: true}
		f.file, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	}
	if err != nil {
		if cause, ok := errors.AsType[*os.PathError](err); ok {
			err = cause.Err // without the name of the temporary file
		}
		return nil, fmt.Errorf("%s cannot be written: %w", path, err)
	}
	return f, nil
}

// finish writes the file and gives it its name, or discards it.
func (f *wholeFile) finish(write func(io.Writer) error) error {
	err := write(f.file)
	if err == nil && f.temp {
		err = f.file.Chmod(0o644)
	}
	if err = errors.Join(err, f.file.Close()); err == nil && f.temp {
		err = os.Rename(f.file.Name(), f.path)
	}
	if err != nil {
		f.discard()
		return fmt.Errorf("%s cannot be written: %w", f.path, err)
	}
	return nil
}

// discard removes what was not finished. It may be called at any time.
func (f *wholeFile) discard() {
	f.file.Close() // closed already, if it was finished
	if f.temp {
		os.Remove(f.file.Name()) // gone already, likewise
	}
}

// writeWhole writes a file that others see either whole or not at all.
func writeWhole(path string, write func(io.Writer) error) error {
	f, err := createWhole(path)
	if err != nil {
		return err
	}
	return f.finish(write)
}
