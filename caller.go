package tandem

// Caller is who asks: the owner of what they submit, and who sees what. Where
// callers are not told apart, all of them are the same one, an admin without a
// name.
type Caller struct {
	Name  string
	Admin bool // sees and acts on the requests of all
}

// Anyone is the Caller where callers are not told apart.
var Anyone = Caller{Admin: true}

// Owns reports whether the caller may see and act on requests of the owner. To
// all others they do not exist.
func (c Caller) Owns(owner string) bool { return c.Admin || c.Name == owner }
