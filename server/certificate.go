package server

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is a TLS certificate in two files, read anew when they change.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	stamp   string    // of the files when they were read
	looked  time.Time // when they were last looked at
}

// lookAtCertificate is how often, at most, the files are looked at.
const lookAtCertificate = time.Second

func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	c.stamp, c.looked = c.look(), time.Now()
	loaded, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	c.current = &loaded
	return c, nil
}

// look returns what changes with the files.
func (c *certificate) look() string {
	stamp := ""
	for _, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil {
			stamp += fmt.Sprintf("%d %d\n", info.ModTime().UnixNano(), info.Size())
		}
	}
	return stamp
}

// get is for tls.Config.GetCertificate. A pair of files that cannot be used,
// such as one of which only half was replaced, leaves the one before in use.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.looked) < lookAtCertificate {
		return c.current, nil
	}
	c.looked = now
	stamp := c.look()
	if stamp == c.stamp {
		return c.current, nil
	}
	c.stamp = stamp
	loaded, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		c.log.Warn("the TLS certificate was changed and cannot be used; the one before stays", "error", err)
		return c.current, nil
	}
	c.current = &loaded
	c.log.Info("the TLS certificate was read anew")
	return c.current, nil
}
