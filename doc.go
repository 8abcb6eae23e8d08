// Package tandem is the vocabulary of the service: a Request, where it stands,
// the callback it owes, and the one error type that travels between packages.
//
// Tandem puts the same unit of work behind a synchronous and an asynchronous
// HTTP API. POST /sync answers with the result; POST /async answers 202 once
// the request is safely on disk, works it later, and sends a signed callback.
// Everything else in this module speaks in the words defined here, and this
// package imports the standard library only.
//
// To embed the service, see package server. To write a workload, see package
// work. To receive callbacks, see package webhook.
package tandem
