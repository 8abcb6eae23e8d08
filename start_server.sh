#!/bin/sh
# Starts the service as the README says. Flags are passed on: ./start_server.sh --mode production
cd "$(dirname "$0")" && exec go run ./cmd/tandem serve "$@"
