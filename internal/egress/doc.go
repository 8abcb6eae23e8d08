// Package egress decides which addresses a callback may reach: the guard
// against server-side request forgery. It looks twice. CheckURL judges the URL
// when a request is submitted, without asking the DNS. Dial judges the address
// that is actually being connected to, so that no name can be turned inward
// after the first look. The second look is the one that holds; the first gives
// the caller a clear answer while there is someone to hear it.
//
// The guard does its part only if whoever dials through it follows no redirect
// without asking CheckURL again, and takes no proxy from the environment, which
// would do the connecting in its place.
package egress
