// Package callback is one attempt at delivering a callback, and the decisions
// around it: what the answer means, when to try again, and whether a host is
// left alone for a while. It knows no database and no queue.
//
// The decisions are pure and apart from each other: [Classify] and [Judge]
// look at an answer, [Policy] at the clock and the attempts made, [Breaker] at
// a host's record. [Sender] alone opens sockets. An owner puts them together:
//
//	breaker, ok, until = breaker.Admit(now)
//	if !ok { wait until then, spending no attempt }
//	answer := sender.Send(ctx, message)
//	breaker = breaker.Record(now, callback.SignOf(answer))
//	if answer.Interrupted { forget the attempt }
//	switch callback.Judge(answer) { ... policy.NextAttempt ... }
package callback
