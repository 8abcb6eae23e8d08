// Package egress decides which addresses a callback may reach: the guard
// against server-side request forgery. It looks twice. CheckURL judges the URL
// when a request is submitted, without asking the DNS. Dial judges the address
// that is actually being connected to, so that no name can be turned inward
// after the first look.
package egress
