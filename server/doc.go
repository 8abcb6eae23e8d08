// Package server is the whole service as one embeddable object: make it with
// New, and Run it, or Start and Stop it yourself.
//
//	s, err := server.New(ctx, server.Options{Database: "requests.db"})
//	if err != nil { ... }
//	err = s.Run(ctx) // until ctx ends, then drains
package server
