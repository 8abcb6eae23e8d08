// Package access knows the callers who may enter: their API keys, what each may
// see, and the secrets that their callbacks are signed with. It keeps a copy in
// memory; where keys are kept is the backend's.
package access
