package target

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	texttemplate "text/template"
	"text/template/parse"
)

// template is text with fields to be filled in: a text/template of nothing but
// text and fields, taken apart once, so that filling it in is appending.
type template []part

// part is a literal text, or a field by its name.
type part struct {
	literal string
	field   string
}

// parseTemplate reads a template such as {"notify": "{{.CallbackURL}}"}.
func parseTemplate(text string) (template, error) {
	parsed, err := texttemplate.New("").Parse(text)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: :"))
	}
	if parsed.Tree == nil {
		return nil, nil
	}
	var t template
	for _, node := range parsed.Root.Nodes {
		switch n := node.(type) {
		case *parse.TextNode:
			t = append(t, part{literal: string(n.Text)})
			continue
		case *parse.ActionNode:
			if name, ok := strings.CutPrefix(n.Pipe.String(), "."); ok && slices.Contains(fields, name) {
				t = append(t, part{field: name})
				continue
			}
		}
		return nil, fmt.Errorf("%s is not known; there are {{.%s}}", node, strings.Join(fields, "}}, {{."))
	}
	return t, nil
}

// fill fills the values in.
func (t template) fill(v Values) []byte {
	size := 0
	for _, p := range t {
		size += len(p.literal) + 64
	}
	filled := make([]byte, 0, size)
	for _, p := range t {
		filled = append(filled, p.literal...)
		if p.field != "" {
			filled = append(filled, v.field(p.field)...)
		}
	}
	return filled
}

// has reports whether a field stands in the template.
func (t template) has(field string) bool {
	return slices.ContainsFunc(t, func(p part) bool { return p.field == field })
}
