package callback_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tandem"
	"tandem/internal/callback"
)

// What comes on a connection that nobody has asked anything on is no answer to
// the next message.
func TestSendTakesNoAnswerThatCameUnasked(t *testing.T) {
	const fine = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	tests := []struct {
		name  string
		later bool // the second answer comes when the first has been read
	}{
		{"together with the answer", false},
		{"after the answer", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.later && runtime.GOOS == "windows" {
				t.Skip("an idle connection cannot be looked at without waiting")
			}
			var connections atomic.Int64
			read, written := make(chan struct{}), make(chan struct{})
			addr := rawReceiver(t, func(c net.Conn) {
				first := connections.Add(1) == 1
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				io.Copy(io.Discard, r.Body)
				switch {
				case !first:
					io.WriteString(c, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
				case tt.later:
					io.WriteString(c, fine)
					<-read
					io.WriteString(c, fine)
					close(written)
				default:
					io.WriteString(c, fine+fine)
				}
				hang(c)
			})
			s := newSender(t, callback.Options{})
			if a := s.Send(t.Context(), message("http://"+addr)); a.Status != 200 {
				t.Fatalf("got status %d (%s), want 200", a.Status, a.Error)
			}
			if tt.later {
				close(read)
				<-written
			}
			if a := s.Send(t.Context(), message("http://"+addr)); a.Status != 500 || connections.Load() != 2 {
				t.Errorf("got status %d over %d connections, want the receiver's 500 over a second one", a.Status, connections.Load())
			}
		})
	}
}

// A receiver may answer before it has read a message, and never read the rest.
func TestSendTakesAnAnswerToAMessageThatWasNotRead(t *testing.T) {
	over := make(chan struct{})
	addr := rawReceiver(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		if _, err := http.ReadRequest(br); err != nil { // the header alone
			return
		}
		io.WriteString(c, "HTTP/1.1 413 Too much\r\nContent-Length: 0\r\n\r\n")
		<-over
	})
	t.Cleanup(func() { close(over) })
	for _, size := range []int{1 << 10, 16 << 20} {
		m := message("http://" + addr)
		m.Body = bytes.Repeat([]byte("z"), size)
		if a := newSender(t, callback.Options{}).Send(t.Context(), m); a.Status != 413 {
			t.Errorf("%d bytes: got status %d (%s), want 413", size, a.Status, a.Error)
		}
	}
}

func TestSendEndsConnectionsThatIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Time, 1)
		s := callback.NewSender(func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				br := bufio.NewReader(theirs)
				for {
					r, err := http.ReadRequest(br)
					if err != nil {
						ended <- time.Now()
						return
					}
					io.Copy(io.Discard, r.Body)
					io.WriteString(theirs, "HTTP/1.1 204 No Content\r\n\r\n")
				}
			}()
			return ours, nil
		}, callback.Options{})
		for range 2 { // the second one's time counts
			time.Sleep(10 * time.Second)
			if a := s.Send(t.Context(), message("http://receiver.test")); a.Class != tandem.ClassNone {
				t.Fatal(a.Error)
			}
		}
		used := time.Now()
		if got := (<-ended).Sub(used); got != 15*time.Second {
			t.Errorf("an idle connection was closed after %v, want 15 s", got)
		}
	})
}
