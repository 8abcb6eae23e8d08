package embedded

import (
	"context"
	"errors"
	"fmt"

	"tandem/internal/access"
	"tandem/internal/store"
)

// OpenKeys opens the file at path for its keys, and makes it if there is none. A
// running service may have it open.
func OpenKeys(ctx context.Context, path string) (*store.KeyStore, error) {
	if path == Memory {
		return nil, errors.New("a service in memory has no keys: give it a file")
	}
	if err := makeFile(path); err != nil {
		return nil, err
	}
	db, err := openSQL(path, 1)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the database %s: %w", path, err), db.Close())
	}
	return store.NewKeyStore(db, db.Close), nil
}

// LoadKeys sets the keyring to the keys in the file.
func (b *Backend) LoadKeys(ctx context.Context, ring *access.Keyring) error {
	return store.NewKeyStore(b.read, nil).Load(ctx, ring)
}

// WatchKeys sets the keyring anew whenever the keys in the file change, until
// ctx ends. While they cannot be read, those known so far stay.
func (b *Backend) WatchKeys(ctx context.Context, ring *access.Keyring) {
	store.NewKeyStore(b.read, nil).Watch(ctx, ring, b.log)
}
