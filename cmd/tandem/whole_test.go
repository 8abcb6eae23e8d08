package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func writing(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

// wantFile checks what a file holds, and that there is nothing beside it.
func wantFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("the file holds %q (%v), want %q", got, err, want)
	}
	if all, err := os.ReadDir(filepath.Dir(path)); err != nil || len(all) != 1 {
		t.Errorf("beside the file there is something: %v (%v)", all, err)
	}
}

func TestAFileIsWrittenWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.html")
	for _, text := range []string{"the first", "the next"} {
		if err := writeWhole(path, writing(text)); err != nil {
			t.Fatal(err)
		}
		wantFile(t, path, text)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o644 && runtime.GOOS != "windows" {
		t.Errorf("its mode is %o, want 644: others read it too", mode)
	}
}

func TestAFileThatCannotBeFinishedIsLeftAsItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(path, []byte("the old one"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("it cannot be rendered")
	err := writeWhole(path, func(w io.Writer) error { return errors.Join(writing("half of")(w), broken) })
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want what is broken, and the path", err)
	}
	wantFile(t, path, "the old one")
	f, err := createWhole(path)
	if err != nil {
		t.Fatal(err)
	}
	f.discard()
	wantFile(t, path, "the old one")
}

func TestAFileIsWrittenWhereItsNameLeads(t *testing.T) {
	target, link := filepath.Join(t.TempDir(), "report.html"), filepath.Join(t.TempDir(), "link")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Skip("no links here: ", err)
	}
	if err := writeWhole(link, writing("through the link")); err != nil {
		t.Fatal(err)
	}
	wantFile(t, target, "through the link")
	wantFile(t, link, "through the link")
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is one no more: %v (%v)", info, err)
	}

	if err := writeWhole(os.DevNull, writing("nobody reads it")); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode().IsRegular() {
		t.Errorf("a device was replaced by a file: %v (%v)", info, err)
	}
	if err := writeWhole(t.TempDir(), writing("")); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("of a folder: %v", err)
	}
	if err := writeWhole(filepath.Join(t.TempDir(), "missing", "report.html"), writing("")); err == nil || strings.Contains(err.Error(), ".report.html.") {
		t.Errorf("in a missing folder: %v, want an error without the name of a temporary file", err)
	}
}
