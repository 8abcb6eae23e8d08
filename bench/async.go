package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"tandem/webhook"
	"tandem/work"
)

// measureAsync compares the whole async path - accept, about 0.1 ms of compute,
// a signed callback delivered and recorded - with a bare handler's 202.
func measureAsync(ctx context.Context, b *bench) error {
	secret := webhook.NewSecret()
	receiver, err := newReceiver()
	if err != nil {
		return err
	}
	defer receiver.close()
	rounds, err := roundsFor(ctx, 100*time.Microsecond)
	if err != nil {
		return err
	}
	bare, err := b.bare(ctx)
	if err != nil {
		return err
	}
	defer bare.stop()
	service, err := b.tandem(ctx, "--callback-per-host", "64", "--rounds", fmt.Sprint(rounds), "--callback-secret", secret.Reveal())
	if err != nil {
		return err
	}
	defer service.stop()

	const conns, count = 64, 10_000
	var ratios, costs []float64
	done := int64(0)
	for round := range b.rounds {
		_, plain, err := flood(ctx, bare.url+"/async", smallBody, conns, b.length, http.StatusAccepted)
		if err != nil {
			return err
		}
		cpu, err := service.cpu()
		if err != nil {
			return err
		}
		start := time.Now()
		err = sendAll(ctx, service.url+"/async", func(i int) string {
			return fmt.Sprintf(`{"data":{"a":1.5,"b":2,"c":[3,4]},"callback_url":"%s/%d/%d"}`, receiver.url, round, i)
		}, conns, count, http.StatusAccepted)
		if err != nil {
			return err
		}
		accepted := time.Since(start)
		done += count
		if err := untilDelivered(ctx, service.url, done); err != nil {
			return err
		}
		whole := count / time.Since(start).Seconds()
		after, err := service.cpu()
		if err != nil {
			return err
		}
		costs = append(costs, float64((after-cpu).Microseconds())/count)
		fmt.Printf("       round %d: bare %6.0f/s   tandem %6.0f/s   %.3fx   (all accepted after %.0f%% of the time)\n",
			round+1, plain, whole, whole/plain, 100*accepted.Seconds()*whole/count)
		ratios = append(ratios, whole/plain)
	}
	fmt.Printf("       %d rounds of compute a request; CPU of the service per request: %.0f us\n", rounds, median(costs))
	b.atLeast("whole async path / bare handler", median(ratios), 0.18)

	verified, err := receiver.verify(secret)
	if err != nil {
		return err
	}
	b.verdict(verified == b.rounds*count, "callbacks verified: %d of %d accepted", verified, b.rounds*count)
	return nil
}

// roundsFor returns how many rounds of compute take so long while every core is
// busy with them, as the service's are.
func roundsFor(ctx context.Context, d time.Duration) (int, error) {
	const rounds = 200_000
	times := make([]time.Duration, runtime.NumCPU())
	kind := work.Compute(rounds)
	err := inParallel(len(times), func(i int) error {
		start := time.Now()
		for range 100 {
			if _, err := kind.Func(ctx, work.Input{Data: []byte(`{"a":1}`), Complexity: 1}); err != nil {
				return err
			}
		}
		times[i] = time.Since(start) / 100
		return nil
	})
	return int(rounds * d / median(times)), err
}

// untilDelivered waits until the service has recorded so many deliveries.
func untilDelivered(ctx context.Context, url string, want int64) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		var stats struct {
			Callbacks struct{ Delivered, Failed int64 } `json:"callback_service"`
		}
		if err := getJSON(ctx, url+"/stats", &stats); err != nil {
			return err
		}
		if stats.Callbacks.Failed > 0 {
			return fmt.Errorf("%d callbacks were given up", stats.Callbacks.Failed)
		}
		if stats.Callbacks.Delivered >= want {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("delivered %d of %d: %w", stats.Callbacks.Delivered, want, ctx.Err())
		}
	}
}

func getJSON(ctx context.Context, url string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(into)
}

// receiver keeps every callback it gets, to be verified when nothing is
// measured any more. It is as cheap as a receiver can be, so that what is
// measured is the service: it reads HTTP/1.1 as the service sends it, and keeps
// all in one slice of bytes, which the garbage collector need not look into.
type receiver struct {
	url      string
	listener net.Listener

	mu   sync.Mutex
	kept []byte // callbacks one behind the other, each part led by its length
	n    int
}

func newReceiver() (*receiver, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	rc := &receiver{url: "http://" + listener.Addr().String(), listener: listener}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go rc.serve(conn)
		}
	}()
	return rc, nil
}

func (rc *receiver) close() { _ = rc.listener.Close() }

var signedHeaders = []string{webhook.HeaderID, webhook.HeaderTimestamp, webhook.HeaderSignature}

// serve answers the callbacks of one connection, until it ends.
func (rc *receiver) serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	var body [2048]byte
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return
		}
		_, path, _ := strings.Cut(line, " ")
		path, _, _ = strings.Cut(path, " ")
		var signed [3]string
		length := 0
		for {
			line, err := reader.ReadString('\n')
			if err != nil {
				return
			}
			name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
			if !ok {
				break // the empty line
			}
			if strings.EqualFold(name, "Content-Length") {
				length, _ = strconv.Atoi(value)
			}
			for i, header := range signedHeaders {
				if strings.EqualFold(name, header) {
					signed[i] = value
				}
			}
		}
		if length == 0 || length > len(body) {
			return // none of ours is empty, or so long
		}
		if _, err := io.ReadFull(reader, body[:length]); err != nil {
			return
		}
		rc.mu.Lock()
		rc.keep(path)
		for _, value := range signed {
			rc.keep(value)
		}
		rc.keep(string(body[:length]))
		rc.n++
		rc.mu.Unlock()
		if _, err := io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n"); err != nil {
			return
		}
	}
}

// until waits until so many callbacks have come. Asking the service instead
// would be a load of its own.
func (rc *receiver) until(ctx context.Context, want int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		rc.mu.Lock()
		n := rc.n
		rc.mu.Unlock()
		if n >= want {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d of %d callbacks have come: %w", n, want, ctx.Err())
		}
	}
}

func (rc *receiver) keep(part string) {
	rc.kept = binary.BigEndian.AppendUint16(rc.kept, uint16(len(part)))
	rc.kept = append(rc.kept, part...)
}

// verify checks every signature and returns how many different callbacks there
// were. The age of a signature is judged by its own time: it was received in
// time, or it would not have been counted as delivered.
func (rc *receiver) verify(secret webhook.Secret) (int, error) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rest := rc.kept
	next := func() string {
		length := binary.BigEndian.Uint16(rest)
		part := string(rest[2 : 2+length])
		rest = rest[2+length:]
		return part
	}
	paths := make(map[string]bool)
	for range rc.n {
		path, header := next(), make(http.Header)
		for _, name := range signedHeaders {
			header.Set(name, next())
		}
		seconds, err := strconv.ParseInt(header.Get(webhook.HeaderTimestamp), 10, 64)
		if err == nil {
			err = webhook.Verify(header, []byte(next()), time.Unix(seconds, 0), secret)
		}
		if err != nil {
			return 0, fmt.Errorf("callback %s: %w", path, err)
		}
		paths[path] = true
	}
	return len(paths), nil
}
