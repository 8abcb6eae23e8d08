package httpapi

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"tandem"
)

// onlyKnownParameters is as strict with the query as parseSubmission is with the
// body: a parameter that was mistyped would be left out of account silently. The
// health routes take what load balancers add.
func onlyKnownParameters(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	if r.URL.RawQuery != "" && !isPublic(r.URL.Path) {
		if err := checkQuery(r.URL.RawQuery, ctx.Operation().Parameters); err != nil {
			problemOf(err).write(w)
			return
		}
	}
	next(ctx)
}

// checkQuery refuses what is not in known, or comes twice.
func checkQuery(query string, known []*huma.Param) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return tandem.Invalid("query", "must be parameters such as limit=10, joined by & and with %%XX for what is not plain")
	}
	var names []string
	for _, p := range known {
		if p.In == "query" {
			names = append(names, p.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case len(names) == 0:
			return tandem.Invalid(fieldName(name), "unknown parameter; there are none here")
		case !slices.Contains(names, name):
			return tandem.Invalid(fieldName(name), "unknown parameter; known are %s", strings.Join(names, ", "))
		case len(values[name]) > 1:
			return tandem.Invalid(name, "comes twice")
		}
	}
	return nil
}
