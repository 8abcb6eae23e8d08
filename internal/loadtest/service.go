package loadtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// askService asks the service what it is, which also shows that it is there. An
// API that is not Tandem's is only connected to. Of a service on this machine
// it finds the process, too.
func (o *Options) askService(ctx context.Context, isTandem bool) (s Service, p process, err error) {
	s = Service{URL: o.URL, Name: o.Target.Name, Completion: string(o.Completion)}
	s.Verified = o.Completion == Callback && o.Target.Verifies()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	began := time.Now()
	c, err := newClient(o.URL, 10*time.Second, func() time.Duration { return time.Since(began) })
	if err != nil {
		return s, p, err
	}
	defer c.close()
	connection, _, err := c.get()
	if err != nil {
		return s, p, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if address := connection.RemoteAddr().(*net.TCPAddr).AddrPort(); isLocal(address.Addr().Unmap()) {
		s.Local, p = true, findProcess(address)
	}
	if !isTandem {
		return s, p, nil
	}
	var health struct {
		Backend string `json:"backend"`
		Durable *bool  `json:"durable"`
	}
	if err := getJSON(ctx, o.URL+"/healthz", &health); err != nil {
		return s, p, err
	}
	if health.Backend == "" {
		return s, p, fmt.Errorf("%w: GET /healthz names no backend", ErrNotTandem)
	}
	var stats struct {
		System struct {
			Version string `json:"version"`
		} `json:"system"`
	}
	if err := getJSON(ctx, o.URL+"/stats", &stats); err != nil {
		return s, p, err
	}
	s.Backend, s.Durable, s.Version = health.Backend, health.Durable, stats.System.Version
	return s, p, nil
}

func getJSON(ctx context.Context, url string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: GET %s: %s", ErrNotTandem, request.URL.Path, answer.Status)
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		return fmt.Errorf("%w: GET %s: %w", ErrNotTandem, request.URL.Path, err)
	}
	return nil
}

// IsLocal reports whether the service at a URL is on this machine.
func IsLocal(ctx context.Context, service string) (bool, error) {
	c, err := newClient(service, 0, nil)
	if err != nil {
		return false, err
	}
	host, _, err := net.SplitHostPort(c.address)
	if err != nil {
		return false, err
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return !isLocal(a.Unmap()) }), nil
}

// isLocal reports whether an address is one of this machine's.
func isLocal(address netip.Addr) bool {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return address.IsLoopback()
	}
	return address.IsLoopback() || slices.ContainsFunc(own, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr().Unmap() == address
	})
}
