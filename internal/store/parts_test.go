package store_test

import (
	"slices"
	"testing"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

func TestEachPageIsOfThePartsThatHaveWhatItAsksFor(t *testing.T) {
	ann := tandem.Caller{Name: "ann"}
	pairs := func(modes []tandem.Mode, statuses ...tandem.Status) (parts []store.Part) {
		for _, mode := range modes {
			for _, status := range statuses {
				parts = append(parts, store.Part{Set: store.ByStanding, Mode: mode, Status: status})
			}
		}
		return parts
	}
	async, sync := []tandem.Mode{tandem.Async}, []tandem.Mode{tandem.Sync}
	for _, c := range []struct {
		name  string
		query engine.Query
		want  []store.Part
	}{
		{"everything is read in its order", engine.Query{Caller: tandem.Anyone}, []store.Part{{Set: store.Everything}}},
		{"what no index knows makes no part", engine.Query{Caller: tandem.Anyone, Host: "a:443"}, []store.Part{{Set: store.Everything}}},
		{"an owner's requests are of each pair", engine.Query{Caller: ann}, pairs(tandem.Modes, tandem.Statuses...)},
		{"a mode is of each status", engine.Query{Caller: tandem.Anyone, Mode: tandem.Sync}, pairs(sync, tandem.Statuses...)},
		{"a status is of both modes", engine.Query{Caller: tandem.Anyone, Status: tandem.Failed}, pairs(tandem.Modes, tandem.Failed)},
		{"both are one pair", engine.Query{Caller: ann, Mode: tandem.Async, Status: tandem.Failed}, pairs(async, tandem.Failed)},
		{"without a callback a request may stand anyhow", engine.Query{Caller: tandem.Anyone, Callback: tandem.CallbackNone}, pairs(tandem.Modes, tandem.Statuses...)},
		{"a callback is owed of what waits, of what runs and of what is worked", engine.Query{Caller: ann, Callback: tandem.CallbackPending},
			append(pairs(async, tandem.Pending, tandem.Processing), store.Part{Set: store.Owed})},
		{"of what is worked only", engine.Query{Caller: ann, Callback: tandem.CallbackPending, Status: tandem.Completed},
			[]store.Part{{Set: store.Owed, Status: tandem.Completed}}},
		{"a callback was delivered with success or a failure to tell", engine.Query{Caller: ann, Callback: tandem.CallbackDelivered, Mode: tandem.Async},
			append(pairs(async, tandem.CallbackSent), store.Part{Set: store.ToldOfFailure, Mode: tandem.Async})},
		{"no sync request has a callback", engine.Query{Caller: ann, Callback: tandem.CallbackDelivered, Mode: tandem.Sync},
			[]store.Part{{Set: store.ToldOfFailure, Mode: tandem.Sync}}},
		{"callbacks that were given up are few", engine.Query{Caller: ann, Callback: tandem.CallbackGivenUp}, []store.Part{{Set: store.GivenUp}}},
		{"by status, too", engine.Query{Caller: ann, Callback: tandem.CallbackGivenUp, Status: tandem.CallbackFailed}, []store.Part{{Set: store.GivenUp, Status: tandem.CallbackFailed}}},
	} {
		if got := store.Parts(c.query); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
