package report

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"tandem/internal/loadtest"
)

// several are the names and files of a page of many.
func several(t testing.TB) (names []string, files []*loadtest.File) {
	all := fixtures(t)
	names = strings.Fields("closed void compare search open_growth")
	for _, n := range names {
		files = append(files, all[n])
	}
	return names, files
}

var written map[string]string

// pages are those of each fixture alone and of several together.
func pages(t *testing.T) map[string]string {
	if written != nil {
		return written
	}
	pages := map[string]string{}
	for name, f := range fixtures(t) {
		pages[name] = writing(t, func(w io.Writer) error { return HTML(w, []string{name + ".json"}, []*loadtest.File{f}) })
	}
	names, files := several(t)
	pages["several"] = writing(t, func(w io.Writer) error { return HTML(w, names, files) })
	written = pages
	return pages
}

// TestPageIsGolden leaves out the styles and scripts, which are files of their
// own. PAGES may name a directory to write whole pages to, to be looked at in a
// browser.
func TestPageIsGolden(t *testing.T) {
	own := strings.NewReplacer(uplotCSS, "[uPlot]", uplotJS, "[uPlot]", pageCSS, "[page.css]", pageJS, "[page.js]")
	hashes := regexp.MustCompile(`&#39;sha256-.*?&#39;`)
	dir := os.Getenv("PAGES")
	for name, page := range pages(t) {
		if dir != "" {
			if err := os.WriteFile(filepath.Join(dir, name+".html"), []byte(page), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		switch name {
		case "closed_few", "void", "compare", "search", "several":
			t.Run(name, func(t *testing.T) { golden(t, name+".html", hashes.ReplaceAllString(own.Replace(page), "[hash]")) })
		}
	}
}

func TestPageReachesNothing(t *testing.T) {
	for name, page := range pages(t) {
		root := parse(t, page)
		var policy string
		var scripts, styles []string
		walk(root, func(n *html.Node) {
			switch n.Data {
			case "meta":
				if attribute(n, "http-equiv") == "Content-Security-Policy" {
					policy = attribute(n, "content")
				}
			case "script":
				if attribute(n, "type") == "" {
					scripts = append(scripts, text(n))
				}
			case "style":
				styles = append(styles, text(n))
			}
			for _, a := range n.Attr {
				if a.Key == "src" || a.Key == "style" || strings.HasPrefix(a.Key, "on") || a.Key == "href" && !strings.HasPrefix(a.Val, "#") {
					t.Errorf("%s: <%s %s=%q>", name, n.Data, a.Key, a.Val)
				}
			}
		})
		if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: the policy is %q", name, policy)
		}
		if len(scripts) != 2 || len(styles) != 2 {
			t.Fatalf("%s: %d scripts and %d styles, want 2 and 2", name, len(scripts), len(styles))
		}
		for _, part := range append(scripts, styles...) {
			sum := sha256.Sum256([]byte(part))
			if !strings.Contains(policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
				t.Errorf("%s: the policy does not allow %.40q", name, part)
			}
		}
	}
}

func TestPageIsForReadersToo(t *testing.T) {
	for name, page := range pages(t) {
		root := parse(t, page)
		ids, level, charts, drawn := map[string]bool{}, 0, 0, []plot(nil)
		walk(root, func(n *html.Node) {
			if id := attribute(n, "id"); id != "" {
				if ids[id] {
					t.Errorf("%s: the id %q is there twice", name, id)
				}
				ids[id] = true
			}
			switch n.Data {
			case "table":
				if captions := find(n, "caption"); len(captions) != 1 || strings.TrimSpace(text(captions[0])) == "" {
					t.Errorf("%s: a table has no caption", name)
				}
			case "th":
				if attribute(n, "scope") == "" {
					t.Errorf("%s: the head %q has no scope", name, text(n))
				}
			case "h1", "h2", "h3":
				now := int(n.Data[1] - '0')
				if now > level+1 {
					t.Errorf("%s: %s %q follows h%d", name, n.Data, text(n), level)
				}
				level = now
			case "figure":
				charts++
			}
		})
		if err := json.Unmarshal([]byte(data(t, root)), &drawn); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if charts == 0 || charts != len(drawn) {
			t.Errorf("%s: %d figures and %d charts", name, charts, len(drawn))
		}
		for _, p := range drawn {
			if !ids[p.ID] {
				t.Errorf("%s: no place for %s", name, p.ID)
			}
			for _, s := range p.Series {
				if len(s.Y) != len(p.X) {
					t.Errorf("%s, %s: %d figures at %d places", name, s.Label, len(s.Y), len(p.X))
				}
			}
		}
	}
}

func TestPageStaysSmall(t *testing.T) {
	f := cpuBoundRun(t, 1000)
	long := f.Load.Series[:20]
	for len(long) < 250 {
		s := long[len(long)%20]
		s.At = len(long)
		long = append(long, s)
	}
	f.Load.Series = long
	page := writing(t, func(w io.Writer) error { return HTML(w, []string{"long"}, []*loadtest.File{f}) })
	if len(page) > 400_000 {
		t.Errorf("the page of 250 seconds has %d bytes", len(page))
	}
	if !strings.Contains(page, "Each point is of 2 seconds of the run.") {
		t.Error("the page does not say how long its buckets are")
	}
}

// hostile tries to break out of text, of attributes, of scripts and of the
// terminal.
const hostile = "\x1b[2J</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{.}}<!--\x1b[31m\u202e\u2028\nx"

func TestHostileTextsStayText(t *testing.T) {
	var files []*loadtest.File
	for _, f := range fixtures(t) {
		if r := result(f); r != nil {
			r.Series = r.Series[:2]
		}
		files = append(files, poisoned(t, f))
	}
	for _, f := range files {
		for name, report := range map[string]func(w io.Writer) error{
			"text":    func(w io.Writer) error { return Text(w, f) },
			"several": func(w io.Writer) error { return TextAll(w, []string{hostile, hostile}, []*loadtest.File{f, f}) },
		} {
			text := writing(t, report)
			narrow(t, text)
			if strings.ContainsAny(text, "\x1b\u202e\u2028") {
				t.Errorf("%s: a control character reaches the terminal", name)
			}
		}
		for _, some := range [][]*loadtest.File{{f}, {f, f}} {
			names := []string{hostile, hostile}[:len(some)]
			root := parse(t, writing(t, func(w io.Writer) error { return HTML(w, names, some) }))
			if n := len(find(root, "script")); n != 3 {
				t.Errorf("%d scripts, want 3", n)
			}
			if n := len(find(root, "img")); n != 0 {
				t.Errorf("%d images", n)
			}
			var drawn []plot
			if err := json.Unmarshal([]byte(data(t, root)), &drawn); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text(root), "<script>alert(1)</script>") {
				t.Error("the hostile text is not shown as it is")
			}
		}
	}
}

// poisoned is a file in which every text that is not a mode, an arm or a
// verdict is hostile.
func poisoned(t *testing.T, f *loadtest.File) *loadtest.File {
	t.Helper()
	written, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(written, &tree); err != nil {
		t.Fatal(err)
	}
	written, err = json.Marshal(poison(tree, ""))
	if err != nil {
		t.Fatal(err)
	}
	bad := &loadtest.File{}
	if err := json.Unmarshal(written, bad); err != nil {
		t.Fatal(err)
	}
	return bad
}

func poison(tree any, key string) any {
	switch v := tree.(type) {
	case map[string]any:
		for k := range v {
			v[k] = poison(v[k], k)
		}
		if key == "errors" {
			v[hostile] = 1
		}
	case []any:
		for i := range v {
			v[i] = poison(v[i], key)
		}
	case string:
		if !regexp.MustCompile(`^(mode|arm|hdr|started|completion|outcome)$`).MatchString(key) {
			return hostile
		}
	}
	return tree
}

func TestEmptyFilesAreReported(t *testing.T) {
	bare := &loadtest.Result{Series: []loadtest.Second{{}, {At: -1}, {At: 1 << 40}}, LittleLaw: []loadtest.Window{{}},
		SLOs: []loadtest.Objective{{}}, Callbacks: loadtest.Callbacks{Received: 1}}
	endless := &loadtest.Result{Series: []loadtest.Second{{At: 1}, {At: math.MaxInt}}}
	open := *bare
	open.Spec = loadtest.Spec{Rate: 1, SyncRatio: 0.5}
	for name, f := range map[string]*loadtest.File{
		"nothing":    {},
		"load":       {Load: &loadtest.Result{}},
		"bare load":  {Load: bare},
		"open load":  {Load: &open},
		"endless":    {Load: endless},
		"comparison": {Compare: &loadtest.Comparison{Metrics: []loadtest.Metric{{}, {Verdict: loadtest.Unmeasured}}}},
		"A/A":        {Compare: &loadtest.Comparison{AA: true}},
		"search":     {Search: &loadtest.Search{Capacities: []loadtest.Capacity{{}}, Stages: []loadtest.Stage{{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			narrow(t, writing(t, func(w io.Writer) error { return Text(w, f) }))
			narrow(t, writing(t, func(w io.Writer) error {
				return TextAll(w, make([]string, 5), []*loadtest.File{f, f, f, f, f})
			}))
			writing(t, func(w io.Writer) error { return JSON(w, f) })
			writing(t, func(w io.Writer) error { return HTML(w, []string{"", ""}, []*loadtest.File{f, f}) })
			Insights(f)
		})
	}
}

func TestNamesMustFitTheFiles(t *testing.T) {
	if HTML(io.Discard, nil, nil) == nil || HTML(io.Discard, []string{"a"}, nil) == nil || TextAll(io.Discard, []string{"a"}, nil) == nil {
		t.Error("names without files were taken")
	}
}

func parse(t *testing.T, page string) *html.Node {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func walk(n *html.Node, visit func(*html.Node)) {
	for d := range n.Descendants() {
		if d.Type == html.ElementNode {
			visit(d)
		}
	}
}

func find(n *html.Node, tag string) (all []*html.Node) {
	walk(n, func(d *html.Node) {
		if d.Data == tag {
			all = append(all, d)
		}
	})
	return all
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func text(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return b.String()
}

func data(t *testing.T, root *html.Node) string {
	t.Helper()
	for _, n := range find(root, "script") {
		if attribute(n, "id") == "data" {
			return text(n)
		}
	}
	t.Fatal("the page has no data")
	return ""
}
