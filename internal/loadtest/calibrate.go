package loadtest

import (
	"context"
	"net"
	"net/http"
	"time"

	"tandem"
	"tandem/internal/target"
)

// A calibration takes warmUp, and then ceilingTime to see how many requests the
// generator can send and floorTime to see how soon the machine can answer one.
const (
	warmUp      = 50 * time.Millisecond
	ceilingTime = 300 * time.Millisecond
	floorTime   = 150 * time.Millisecond
)

// calibrationCallers is how many callers find the ceiling of an open model.
const calibrationCallers = 64

// calibration is what the generator can do, and what it sees of a server that
// does nothing.
type calibration struct {
	ceiling float64 // requests per second
	floor   Latency
}

// calibrate measures the generator itself, against a server in this process
// that does nothing: its ceiling in requests per second, with as many callers
// as spec has, and its noise floor, the latencies of a single caller. The
// server takes its share of the machine, as the service does.
func calibrate(ctx context.Context, spec Spec) (c calibration, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return c, err
	}
	null := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"request_id":"req_0","result":{}}`)) // a caller that is gone needs no answer
	})}
	go null.Serve(listener) // returns when it is closed
	defer null.Close()

	callers := spec.Concurrency
	if spec.Open() {
		callers = calibrationCallers
	}
	flood := func(callers int, length time.Duration) (*tally, time.Duration, error) {
		r := &run{spec: Spec{Workload: spec.Workload, Complexity: spec.Complexity, Concurrency: callers}, target: target.Tandem(), epoch: time.Now()}
		if r.client, err = newClient("http://"+listener.Addr().String(), time.Second, r.now); err != nil {
			return nil, 0, err
		}
		defer r.client.close()
		r.recorder = newRecorder(0)
		ctx, cancel := context.WithTimeout(ctx, length)
		defer cancel()
		r.take(ctx, turn{mode: tandem.Sync, to: MaxRequests})
		total := newTally()
		r.recorder.takeInto(total)
		return total, r.now(), nil
	}
	if _, _, err := flood(callers, warmUp); err != nil {
		return c, err
	}
	total, took, err := flood(callers, ceilingTime)
	if err != nil {
		return c, err
	}
	c.ceiling = float64(total.arms[0].completed) / took.Seconds()
	if total, _, err = flood(1, floorTime); err != nil {
		return c, err
	}
	c.floor = total.arms[0].response
	return c, context.Cause(ctx)
}
