// Package httpapi is the service's HTTP face: every route, how a body is
// decoded and refused, what an error looks like, and the middleware. Its types
// are the OpenAPI document.
package httpapi
