//go:build unix

package acceptance

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"tandem/internal/postgrestest"
	"tandem/webhook"
)

// cutProxy passes connections on to a Postgres until it is to hold them: from
// the first answer on that holds certain texts, nothing passes either way.
type cutProxy struct {
	url  string
	cut  *gate // open: nothing passes
	heal *gate // open: all passes again

	mu    sync.Mutex
	texts []string // that cut together; empty: none do
}

func newCutProxy(t *testing.T, database string) *cutProxy {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal("the database has no URL") // the parser's error shows the password
	}
	target := u.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &cutProxy{cut: newGate(), heal: newGate()}
	t.Cleanup(func() {
		p.heal.open()
		_ = listener.Close()
	})
	u.Host = listener.Addr().String()
	p.url = u.String()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			go p.pass(server, client, nil)
			go p.pass(client, server, p.looked)
		}
	}()
	return p
}

// pass copies until either side ends, shows look what it copies, and holds what
// it has while the proxy is cut.
func (p *cutProxy) pass(to, from net.Conn, look func([]byte)) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if look != nil {
			look(buffer[:n])
		}
		if p.cut.isOpen() {
			<-p.heal.opened
		}
		if _, writeErr := to.Write(buffer[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

func (p *cutProxy) looked(answer []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, text := range p.texts {
		if !bytes.Contains(answer, []byte(text)) {
			return
		}
	}
	if len(p.texts) > 0 {
		p.cut.open()
	}
}

// cutAt cuts the proxy at the first answer from now on that holds all of
// the texts.
func (p *cutProxy) cutAt(texts ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.texts = texts
}

// A process is cut off from Postgres at the very moment it is given the job of a
// callback, and is back while another process, which has that job by then, makes
// the attempt.
func TestAProcessCutOffDeliversNothingAfterItsLease(t *testing.T) {
	patient(t)
	database := postgrestest.Database(t)
	proxy := newCutProxy(t, database)
	answer := newGate()
	answer.open()
	var mu sync.Mutex
	rcv := receive(t, func(w http.ResponseWriter, r *http.Request, _ delivery) {
		mu.Lock()
		now := answer
		mu.Unlock()
		now.pass(r)
		_, _ = io.WriteString(w, "thanks")
	})
	secrets := map[string]webhook.Secret{"cut off": webhook.NewSecret(), "other": webhook.NewSecret()}
	start := func(name, database, roles string) *service {
		return serveIn(t, t.TempDir(), []string{"TANDEM_CALLBACK_SECRET=" + secrets[name].Reveal()},
			"--database", database, "--roles", roles, "--work-timeout", "3s", "--callback-timeout", "10s")
	}
	api := start("other", database, "api")
	cutOff := start("cut off", proxy.url, "api,worker")
	id := api.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	rcv.next().verify(t, secrets["cut off"])
	api.settled(id)

	db := openPostgres(t, database)
	eventually(t, "the jobs are put away", func() bool { return len(jobsOf(t, db, cutOff)) == 0 })

	mu.Lock()
	answer = newGate()
	held := answer
	mu.Unlock()
	t.Cleanup(held.open)
	proxy.cutAt(`{"id": "`+id+`"}`, "running") // a job of the request that it is given to run
	if a := api.post("/requests/"+id+"/redeliver", nil); a.status != http.StatusOK {
		t.Fatalf("redelivery answers %d %s", a.status, a.body)
	}
	eventually(t, "the process is given the job and cut off", proxy.cut.isOpen)
	began := time.Now()
	start("other", database, "worker")
	eventually(t, "another process has the job", func() bool { return len(rcv.received()) == 2 })
	t.Logf("another process delivers %v after the cut", time.Since(began))
	rcv.next().verify(t, secrets["other"])

	proxy.heal.open()
	eventually(t, "the process is back", func() bool {
		a, err := cutOff.try("GET", "/readyz", nil)
		return err == nil && a.status == http.StatusOK
	})
	held.open()
	if rec := api.settled(id); rec.Status != "callback_sent" || rec.Callback.Attempts != 2 {
		t.Errorf("the record is %v", rec)
	}
	if n := len(rcv.received()); n != 2 {
		t.Errorf("the callback came %d times, want once and once more when that was asked for", n)
	}
	countersFit(t, api, api.history(""))
}
