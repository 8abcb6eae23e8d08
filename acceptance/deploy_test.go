package acceptance

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// deployed is what the files in deploy/ say that runs tandem: its arguments, and
// the names of its environment.
type deployed struct {
	file string
	args []string
	env  []string
}

// documents reads a file of YAML, keys that are there twice being faults.
func documents(t *testing.T, file string) (all []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "deploy", file))
	if err != nil {
		t.Fatal(err)
	}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var doc map[string]any
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, doc)
	}
}

// part follows keys into a document; it wants them there.
func part[T any](t *testing.T, from any, keys ...any) T {
	t.Helper()
	for i, key := range keys {
		var next any
		switch key := key.(type) {
		case string:
			m, _ := from.(map[string]any)
			next = m[key]
		case int:
			if list, _ := from.([]any); key < len(list) {
				next = list[key]
			}
		}
		if next == nil {
			t.Fatalf("there is no %v", keys[:i+1])
		}
		from = next
	}
	v, ok := from.(T)
	if !ok {
		t.Fatalf("%v is a %T", keys, from)
	}
	return v
}

func words(t *testing.T, list []any) []string {
	t.Helper()
	all := make([]string, len(list))
	for i := range list {
		all[i] = part[string](t, list, i)
	}
	return all
}

// kubernetes returns the objects of kubernetes.yaml by kind and name.
func kubernetes(t *testing.T) map[string]map[string]any {
	t.Helper()
	all := make(map[string]map[string]any)
	for _, doc := range documents(t, "kubernetes.yaml") {
		part[string](t, doc, "apiVersion")
		all[part[string](t, doc, "kind")+" "+part[string](t, doc, "metadata", "name")] = doc
	}
	return all
}

// deployments returns all that runs tandem.
func deployments(t *testing.T) (all []deployed) {
	t.Helper()
	services := part[map[string]any](t, documents(t, "compose.yaml")[0], "services")
	for _, name := range []string{"tandem-1", "tandem-2", "tandem-3"} {
		d := deployed{file: "compose.yaml " + name, args: words(t, part[[]any](t, services, name, "command"))}
		for variable := range part[map[string]any](t, services, name, "environment") {
			d.env = append(d.env, variable)
		}
		all = append(all, d)
	}
	for name, object := range kubernetes(t) {
		if !strings.HasPrefix(name, "Deployment ") {
			continue
		}
		container := part[map[string]any](t, object, "spec", "template", "spec", "containers", 0)
		d := deployed{file: "kubernetes.yaml " + name, args: words(t, part[[]any](t, container, "args"))}
		for i := range part[[]any](t, container, "env") {
			d.env = append(d.env, part[string](t, container, "env", i, "name"))
		}
		all = append(all, d)
	}
	for file, line := range map[string]string{"tandem.service": `(?m)^ExecStart=\S+ (.*)$`, "Dockerfile": `(?m)^CMD \[(.*)\]$`} {
		text, err := os.ReadFile(filepath.Join("..", "deploy", file))
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(line).FindStringSubmatch(string(text))
		if found == nil {
			t.Fatalf("%s starts nothing", file)
		}
		all = append(all, deployed{file: file, args: strings.FieldsFunc(found[1], func(r rune) bool { return strings.ContainsRune(`", `, r) })})
	}
	return all
}

func TestDeploymentsNameWhatThereIs(t *testing.T) {
	parallel(t)
	serveHelp, stderr, code := run(t, nil, "serve", "--help")
	if code != 0 {
		t.Fatalf("serve --help ends with %d: %s", code, stderr)
	}

	all := deployments(t)
	if len(all) != 7 {
		t.Fatalf("%d deployments are found, want 7", len(all))
	}
	for _, d := range all {
		if d.args[0] != "serve" || !slices.Contains(d.args, "--mode=production") {
			t.Errorf("%s runs %q", d.file, d.args)
		}
		for _, arg := range d.args[1:] {
			flag, _, _ := strings.Cut(arg, "=")
			if !strings.HasPrefix(flag, "--") || !regexp.MustCompile(`(?m)^\s+`+regexp.QuoteMeta(flag)+`\b[^-]`).MatchString(serveHelp) {
				t.Errorf("%s gives %s, which tandem serve does not know", d.file, flag)
			}
		}
		for _, variable := range d.env {
			if !strings.Contains(serveHelp, "$"+variable+")") {
				t.Errorf("%s sets %s, which tandem does not know", d.file, variable)
			}
		}
	}
}

func TestDeploymentsAreReadAsTheyAreMeant(t *testing.T) {
	parallel(t)
	// The arguments, with addresses and a database of this test.
	for _, d := range deployments(t) {
		args := slices.DeleteFunc(slices.Clone(d.args[1:]), func(arg string) bool {
			return strings.HasPrefix(arg, "--addr=") || strings.HasPrefix(arg, "--admin-addr=") || strings.HasPrefix(arg, "--database=") || strings.HasPrefix(arg, "--roles=")
		})
		s := serve(t, append(args, "--database", filepath.Join(t.TempDir(), "requests.db"))...)
		if a := s.get("/readyz"); a.status != http.StatusOK {
			t.Errorf("%s: /readyz answers %d %s", d.file, a.status, a.body)
		}
		s.kill()
	}
}

func TestKubernetesObjectsFitTogether(t *testing.T) {
	parallel(t)
	objects := kubernetes(t)
	selects := func(what string, selector, labels map[string]any) {
		t.Helper()
		for key, value := range selector {
			if labels[key] != value {
				t.Errorf("%s selects %s %v, the pods have %v", what, key, value, labels[key])
			}
		}
	}
	for _, role := range []string{"api", "worker"} {
		name := "tandem-" + role
		object := objects["Deployment "+name]
		pod := part[map[string]any](t, object, "spec", "template", "spec")
		labels := part[map[string]any](t, object, "spec", "template", "metadata", "labels")
		selects(name, part[map[string]any](t, object, "spec", "selector", "matchLabels"), labels)
		selects("the budget of "+name, part[map[string]any](t, objects["PodDisruptionBudget "+name], "spec", "selector", "matchLabels"), labels)
		container := part[map[string]any](t, pod, "containers", 0)
		args := words(t, part[[]any](t, container, "args"))
		if !slices.Contains(args, "--roles="+role) {
			t.Errorf("%s runs %q", name, args)
		}
		if path := part[string](t, container, "readinessProbe", "httpGet", "path"); path != "/readyz" {
			t.Errorf("%s is ready by %s", name, path)
		}
		if path := part[string](t, container, "livenessProbe", "httpGet", "path"); path != "/healthz" {
			t.Errorf("%s is alive by %s", name, path)
		}
		for _, arg := range args {
			text, found := strings.CutPrefix(arg, "--drain-timeout=")
			if !found {
				continue
			}
			drain, err := time.ParseDuration(text)
			if err != nil {
				t.Fatal(err)
			}
			grace := time.Duration(part[int](t, pod, "terminationGracePeriodSeconds")) * time.Second
			slept := time.Duration(part[int](t, container, "lifecycle", "preStop", "sleep", "seconds")) * time.Second
			if grace < slept+drain+10*time.Second {
				t.Errorf("%s has %v to end, and sleeps %v and drains for %v", name, grace, slept, drain)
			}
		}
	}
	api := part[map[string]any](t, objects["Deployment tandem-api"], "spec", "template", "metadata", "labels")
	selects("the service", part[map[string]any](t, objects["Service tandem"], "spec", "selector"), api)

	scaler := objects["HorizontalPodAutoscaler tandem-worker"]
	target := part[string](t, scaler, "spec", "scaleTargetRef", "kind") + " " + part[string](t, scaler, "spec", "scaleTargetRef", "name")
	if objects[target] == nil {
		t.Errorf("what is scaled is %s, which is not there", target)
	}
	metric := part[string](t, scaler, "spec", "metrics", 0, "pods", "metric", "name")
	if s := serve(t); !strings.Contains(string(s.get("/metrics").body), "\n"+metric+" ") {
		t.Errorf("it is scaled by %s, which /metrics does not have", metric)
	}
}

func TestTheUnitIsOneForSystemd(t *testing.T) {
	parallel(t)
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze on this machine")
	}
	text, err := os.ReadFile(filepath.Join("..", "deploy", "tandem.service"))
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "tandem.service")
	if err := os.WriteFile(unit, bytes.ReplaceAll(text, []byte("/usr/local/bin/tandem"), []byte(program)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", unit).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte(unit)) { // what it only warns of, of this unit
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
