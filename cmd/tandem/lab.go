package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/internal/loadtest"
	"tandem/internal/report"
	"tandem/internal/target"
)

// labFlags are what load, compare and search have in common.
type labFlags struct {
	URL    string `name:"url" default:"http://127.0.0.1:8000" help:"Base URL of the service."`
	Target string `placeholder:"FILE" help:"A file that describes another API of the same shape; see docs/LOAD_TESTING_GUIDE.md. Default: Tandem's."`

	Workload   string `default:"compute" help:"Kind of work to ask for."`
	Complexity int    `default:"1" help:"How much work each request is, 1 to 10."`
	Seed       uint64 `default:"1" help:"Fixes the schedule, or the order of the blocks."`

	CallbackPort   int    `default:"8080" help:"Port to receive callbacks on; 0 picks one."`
	CallbackURL    string `name:"callback-url" placeholder:"URL" help:"Base URL of that port as the service reaches it, if it is on another machine."`
	CallbackSecret string `placeholder:"whsec_..." help:"Secret that callbacks are verified with. Prefer TANDEM_CALLBACK_SECRET: a command line can be read by others."`
	Completion     string `default:"callback" enum:"callback,poll" help:"How outcomes are learned: callback, or poll if callbacks cannot reach this machine."`

	Timeout time.Duration `default:"60s" help:"How long one request may take."`
	Drain   time.Duration `default:"30s" help:"How long no callback may come before those still due count as missing."`

	DemoMode       bool `xor:"mode" help:"No pacing. The default for a service on this machine; against another it needs --yes."`
	ProductionMode bool `xor:"mode" help:"At most 5 callers and 50 requests unless --yes, and no faster than the service's own rate limit. The default for a service on another machine."`
	Yes            bool `help:"I may load this service as much as I ask for."`

	Output string `placeholder:"results.json" help:"Write the result file here."`
	HTML   string `name:"html" placeholder:"report.html" help:"Write the report as one HTML page here."`
}

// options checks the flags that are not the Spec's.
func (f *labFlags) options() (loadtest.Options, error) {
	opts := loadtest.Options{
		URL:             strings.TrimRight(f.URL, "/"),
		Completion:      loadtest.Completion(f.Completion),
		CallbackAddress: net.JoinHostPort("127.0.0.1", strconv.Itoa(f.CallbackPort)),
		CallbackURL:     f.CallbackURL,
		Timeout:         f.Timeout,
		Drain:           f.Drain,
		Considerate:     f.ProductionMode,
		Progress:        progressTo(os.Stderr),
	}
	var faults []error
	fault := func(flag string, err error) {
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", flag, err))
		}
	}
	if f.CallbackURL != "" { // the service is elsewhere, so it comes from elsewhere
		opts.CallbackAddress = net.JoinHostPort("", strconv.Itoa(f.CallbackPort))
		fault("--callback-url", checkCallbackURL(f.CallbackURL))
	}
	if f.CallbackPort < 0 || f.CallbackPort > 65535 {
		fault("--callback-port", fmt.Errorf("must be from 0 to 65535, is %d", f.CallbackPort))
	}
	if f.Timeout <= 0 {
		fault("--timeout", fmt.Errorf("must be positive, such as 60s, is %v", f.Timeout))
	}
	if f.Drain <= 0 {
		fault("--drain", fmt.Errorf("must be positive, such as 30s, is %v", f.Drain))
	}
	if f.Target != "" {
		described, err := readTarget(f.Target)
		fault("--target", err)
		opts.Target = described
	}
	fault("--callback-secret", f.readSecret(&opts))
	return opts, errors.Join(faults...)
}

// checkCallbackURL refuses what no path of a callback can be put behind.
func checkCallbackURL(base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return errors.New("must be like http://lab.example:8080: the address of --callback-port as the service reaches it")
	}
	return nil
}

func readTarget(path string) (*target.Target, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return target.Parse(file)
}

// readSecret reads the secret, which is needed where callbacks are signed.
func (f *labFlags) readSecret(opts *loadtest.Options) error {
	described := opts.Target
	if described == nil {
		described = target.Tandem()
	}
	switch needed := opts.Completion == loadtest.Callback && described.Verifies(); {
	case !needed:
		return nil
	case f.CallbackSecret == "":
		return errors.New("is needed to verify callbacks: give the one that the service signs with (tandem secret show prints it), or --completion poll")
	}
	secret, err := described.ParseSecret(f.CallbackSecret)
	opts.Secret = secret
	return err
}

// The most that production mode sends without --yes.
const (
	productionRequests = 50
	productionCallers  = 5
)

// chooseMode decides between demo and production mode, and holds the Spec to
// it.
func (f *labFlags) chooseMode(ctx context.Context, spec *loadtest.Spec) error {
	local, err := loadtest.IsLocal(ctx, f.URL)
	if err != nil {
		return fmt.Errorf("--url: %w", err)
	}
	switch {
	case f.DemoMode && !local && !f.Yes:
		return errors.New("--demo-mode: the service is not on this machine; add --yes if you may load it without pacing, or use --production-mode")
	case !f.DemoMode && !local:
		f.ProductionMode = true
	}
	if !f.ProductionMode || f.Yes {
		return nil
	}
	switch {
	case spec.Open():
		return errors.New("--production-mode: it keeps to the service's own rate limit; add --yes if you may load it at a rate of your own")
	case spec.Requests > productionRequests:
		return fmt.Errorf("--requests: production mode sends at most %d without --yes, not %d", productionRequests, spec.Requests)
	case spec.Concurrency > productionCallers:
		return fmt.Errorf("--concurrency: production mode has at most %d callers without --yes, not %d", productionCallers, spec.Concurrency)
	}
	return nil
}

// checkWorkload refuses a workload that the service does not have, by what its
// document says. Of one that shows none to everybody nothing is known: what is
// wrong with that, if anything, the lab finds out.
func (f *labFlags) checkWorkload(ctx context.Context) error {
	if f.Target != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(f.URL, "/")+"/openapi.json", nil)
	if err != nil {
		return fmt.Errorf("--url: %w", err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil // the lab says why it is not reached
	}
	defer answer.Body.Close()
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct{ Enum []string }
			}
		}
	}
	if answer.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(answer.Body, 16<<20)).Decode(&doc) != nil {
		return nil
	}
	has := doc.Components.Schemas["SubmitSync"].Properties["workload"].Enum
	if len(has) > 0 && !slices.Contains(has, f.Workload) {
		return fmt.Errorf("--workload: the service has no %s; it has %s", f.Workload, strings.Join(has, ", "))
	}
	return nil
}

// flagFaults turns the names of fields, which begin each fault of a Spec, into
// those of flags.
func flagFaults(err error) error {
	if err == nil {
		return nil
	}
	var faults []error
	for line := range strings.Lines(err.Error()) {
		field, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		faults = append(faults, fmt.Errorf("--%s %s", strings.ReplaceAll(field, "_", "-"), rest))
	}
	return errors.Join(faults...)
}

// explain names the flag that can mend an error of the lab.
func explain(err error) error {
	switch {
	case errors.Is(err, loadtest.ErrUnreachable), errors.Is(err, loadtest.ErrNotTandem):
		return fmt.Errorf("--url: %w", err)
	case errors.Is(err, loadtest.ErrListen):
		return fmt.Errorf("--callback-port: %w; 0 picks a free one", err)
	default:
		return err
	}
}

// outputs are the files that a measurement is written to. They are opened
// before any load is sent, and seen by others when they are whole.
type outputs struct {
	result, html *wholeFile // nil: not wanted
	flags        *labFlags
}

func (f *labFlags) openOutputs() (*outputs, error) {
	o := &outputs{flags: f}
	for _, out := range []struct {
		flag, path string
		file       **wholeFile
	}{{"--output", f.Output, &o.result}, {"--html", f.HTML, &o.html}} {
		if out.path == "" {
			continue
		}
		var err error
		if *out.file, err = createWhole(out.path); err != nil {
			o.discard()
			return nil, fmt.Errorf("%s: %w", out.flag, err)
		}
	}
	return o, nil
}

// discard removes what was not finished.
func (o *outputs) discard() {
	for _, file := range []*wholeFile{o.result, o.html} {
		if file != nil {
			file.discard()
		}
	}
}

// finish writes a measurement to its files and the report to the terminal.
func (o *outputs) finish(measured *loadtest.File) error {
	measured.Version, measured.Tandem, measured.Environment = loadtest.FileVersion, version(), loadtest.ReadEnvironment()
	write := func(file *wholeFile, write func(io.Writer) error) error {
		if file == nil {
			return nil
		}
		return file.finish(write)
	}
	name := o.flags.Output
	if name == "" {
		name = "this run"
	}
	return errors.Join(
		report.Text(os.Stdout, measured),
		write(o.result, func(w io.Writer) error { return loadtest.WriteFile(w, measured) }),
		write(o.html, func(w io.Writer) error {
			return report.HTML(w, []string{name}, []*loadtest.File{measured})
		}),
	)
}

// exitCode ends the program with a code of its own.
type exitCode struct {
	error
	code loadtest.ExitCode
}

// verdict is the error that a measurement ends the program with: nil if it is
// sound and every objective is met. The report says which is not, and why.
func verdict(measured *loadtest.File) error {
	code := measured.Exit()
	why := map[loadtest.ExitCode]string{
		loadtest.ExitMissed:       "an objective was missed",
		loadtest.ExitVoid:         "VOID: the figures do not count",
		loadtest.ExitInconclusive: "inconclusive",
	}
	if code == loadtest.ExitOK {
		return nil
	}
	return exitCode{errors.New(why[code]), code}
}
