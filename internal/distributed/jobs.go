package distributed

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/riverqueue/river"

	"tandem"
	"tandem/work"
)

// A job names a request, and the step that may be due.
type (
	processArgs struct {
		ID string `json:"id"`
	}
	deliverArgs struct {
		ID string `json:"id"`
	}
)

// Kind implements river.JobArgs.
func (processArgs) Kind() string { return "process" }

// Kind implements river.JobArgs.
func (deliverArgs) Kind() string { return "deliver" }

// deliverQueue is the queue of all deliver jobs. Process jobs have one for each
// lane, so that waiting work is not held up behind CPU-bound work.
const deliverQueue = "deliver"

func processQueue(lane string) string {
	if lane != work.Waits.String() { // one of a program with other lanes goes to the narrowest
		lane = work.CPU.String()
	}
	return "process_" + lane
}

// tries is how often River starts a job before it gives it up. A start counts
// against a job only if its process dies; a request that brings that about is
// failed long before.
const tries = 1000

func processJob(req *tandem.Request) river.InsertManyParams {
	return job(processArgs{req.ID}, processQueue(req.Lane), req.NotBefore)
}

// deliverJob is of a request that owes its callback at Callback.NextAt.
func deliverJob(req *tandem.Request) river.InsertManyParams {
	return job(deliverArgs{req.ID}, deliverQueue, req.Callback.NextAt)
}

// job is to be run at a time. River looks for jobs with a time of their own only
// every five seconds: so one that is due sooner goes without, and its step says
// when exactly to come back.
func job(args river.JobArgs, queue string, at time.Time) river.InsertManyParams {
	opts := &river.InsertOpts{Queue: queue, MaxAttempts: tries}
	if time.Until(at) > scheduleBeyond {
		opts.ScheduledAt = at
	}
	return river.InsertManyParams{Args: args, InsertOpts: opts}
}

const scheduleBeyond = 10 * time.Second

// newJob is a job that a transaction makes. If it is held for this process, the
// write that it comes of is told which it is.
type newJob struct {
	params river.InsertManyParams
	write  *write // nil if the job is anybody's
}

// add makes a job with the transaction, held for its write if there is one.
func (t *transaction) add(params river.InsertManyParams, wr *write) {
	if wr != nil {
		params.InsertOpts.ScheduledAt = time.Now().Add(wr.hold)
	}
	t.jobs = append(t.jobs, newJob{params, wr})
}

// end deletes a job of this process with the transaction, if it is one. River
// lets the worker of a job that it finds gone be.
func (t *transaction) end(job ownJob) {
	if job.id != 0 {
		t.ended = append(t.ended, job.id)
	}
}

// writeJobs makes and deletes the transaction's jobs.
func (t *transaction) writeJobs(ctx context.Context) error {
	if len(t.ended) > 0 {
		t.last.Queue(deleteJobsQuery, t.ended)
	}
	if len(t.jobs) == 0 {
		return nil
	}
	params, anyHeld := make([]river.InsertManyParams, len(t.jobs)), false
	for i, job := range t.jobs {
		params[i], anyHeld = job.params, anyHeld || job.write != nil
	}
	if !anyHeld { // then nobody needs to know which they are
		if _, err := t.b.insert.InsertManyFastTx(ctx, t.tx, params); err != nil {
			return fmt.Errorf("insert jobs: %w", err)
		}
		return nil
	}
	made, err := t.b.insert.InsertManyTx(ctx, t.tx, params)
	if err != nil {
		return fmt.Errorf("insert jobs: %w", err)
	}
	for i, job := range t.jobs {
		if job.write == nil {
			continue
		}
		if !bytes.Contains(made[i].Job.EncodedArgs, []byte(job.write.req.ID)) {
			return fmt.Errorf("insert jobs: they came back in another order")
		}
		job.write.heldJob = made[i].Job.ID
	}
	return nil
}

const deleteJobsQuery = `DELETE FROM river_job WHERE id = ANY($1)`

// kinds registers every kind of job, to be run by r. Every client has all of
// them: the one that leads discards jobs of kinds that it does not know.
func kinds(r *runner) *river.Workers {
	workers := river.NewWorkers()
	river.AddWorker(workers, &processWorker{r: r})
	river.AddWorker(workers, &deliverWorker{r: r})
	return workers
}

type processWorker struct {
	river.WorkerDefaults[processArgs]
	r *runner
}

func (w *processWorker) Work(ctx context.Context, job *river.Job[processArgs]) error {
	return w.r.process(ctx, job.Args.ID, age{job.ScheduledAt, job.ID})
}

// NextRetry is for a job whose process has died: at once.
func (w *processWorker) NextRetry(*river.Job[processArgs]) time.Time { return time.Now() }

type deliverWorker struct {
	river.WorkerDefaults[deliverArgs]
	r *runner
}

func (w *deliverWorker) Work(ctx context.Context, job *river.Job[deliverArgs]) error {
	begun := time.Now()
	if job.AttemptedAt != nil {
		begun = begun.Add(-max(0, time.Since(*job.AttemptedAt)))
	}
	return w.r.deliver(ctx, job.Args.ID, job.ID, begun)
}

// NextRetry is for a job whose process has died: at once.
func (w *deliverWorker) NextRetry(*river.Job[deliverArgs]) time.Time { return time.Now() }

const (
	// fetchCooldown is the least time between two looks for jobs of one queue.
	fetchCooldown = 20 * time.Millisecond
	// fetchPoll is the most, should no notification of new jobs come: so long a
	// job may be late whose time has come.
	fetchPoll = 200 * time.Millisecond
	// keepJobs is how long jobs that ended without their step, having found nothing
	// to do, stay for people to look at. The history is in our own rows.
	keepJobs = time.Minute

	// jobGrace is how much longer than its step a job may take, for reading and
	// writing rows, and rescueGrace how much more makes River take its process
	// for dead. The step's lease ends then, too: clocks must not be further
	// apart than the difference.
	jobGrace    = 5 * time.Second
	rescueGrace = 15 * time.Second
)

// longestStep is how long a step may run.
func (b *Backend) longestStep() time.Duration { return max(b.opts.WorkTimeout, b.opts.CallbackTimeout) }

// lease is how long a step belongs to the process that has begun it.
func (b *Backend) lease() time.Duration { return b.longestStep() + rescueGrace }

func (b *Backend) riverConfig(workers *river.Workers) *river.Config {
	return &river.Config{
		ID:                          b.name,
		Workers:                     workers,
		PollOnly:                    b.opts.PollOnly,
		FetchCooldown:               fetchCooldown,
		FetchPollInterval:           fetchPoll,
		JobTimeout:                  b.longestStep() + jobGrace,
		RescueStuckJobsAfter:        b.lease(),
		CompletedJobRetentionPeriod: keepJobs,
		Logger:                      quiet(b.log),
	}
}

// quiet is a logger for River, to which what is worth a note of its own is
// debugging to us.
func quiet(log *slog.Logger) *slog.Logger { return slog.New(quietHandler{log.Handler()}) }

type quietHandler struct{ slog.Handler }

func (h quietHandler) lower(level slog.Level) slog.Level {
	if level < slog.LevelWarn {
		return slog.LevelDebug
	}
	return level
}

func (h quietHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.Handler.Enabled(ctx, h.lower(level))
}

func (h quietHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Level = h.lower(r.Level)
	return h.Handler.Handle(ctx, r)
}

func (h quietHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quietHandler{h.Handler.WithAttrs(attrs)}
}

func (h quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{h.Handler.WithGroup(name)}
}
