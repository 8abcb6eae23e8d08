// Package webhook signs and verifies the callbacks of Tandem, as Standard
// Webhooks 1.0 lays down (https://www.standardwebhooks.com). A receiver needs
// this package, or the Standard Webhooks library of its own language, and the
// secret that `tandem secret show` prints:
//
//	secret, err := webhook.ParseSecret(os.Getenv("TANDEM_CALLBACK_SECRET"))
//	...
//	err = webhook.Verify(r.Header, body, time.Now(), secret)
//
// A verified body decodes into an [Event]. Callbacks come at least once: the
// webhook-id header names the request and is the same on every attempt, so a
// receiver that remembers it can drop what it has seen.
//
// The package imports the standard library only.
package webhook
