# CI is .ci/run: make check, a while of make fuzz and make soak, and the README's
# test command.

PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
FUZZTIME ?= 1m
SOAK ?= 10m

.PHONY: check fmt vet staticcheck race cross test bench fuzz soak soak-race build

check: fmt vet staticcheck cross race

fmt:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt'd: $$unformatted"; exit 1; }

vet:
	go vet ./...

staticcheck:
	go tool staticcheck ./...

race:
	go test -race -timeout 20m ./...

cross:
	@set -e; for p in $(PLATFORMS); do \
		echo "build $$p"; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} go build -o /dev/null ./cmd/tandem; \
	done

test:
	go test ./...

# Ratios against bare handlers, measured side by side; see bench/main.go.
bench:
	go run ./bench

# Every fuzz target for FUZZTIME.
fuzz:
	@set -e; for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -c6-); do \
			echo "fuzz $$dir $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$dir; \
		done; \
	done

# A mixed load under faults for SOAK, then the accounts: see docs/reliability.md.
soak:
	go test ./acceptance -run '^TestSoak$$' -count=1 -v -timeout 0 -soak.duration $(SOAK)

# The same, with the program built to look for data races.
soak-race:
	go test -race ./acceptance -run '^TestSoak$$' -count=1 -v -timeout 0 -soak.duration $(SOAK)

build:
	CGO_ENABLED=0 go build -trimpath -o bin/tandem ./cmd/tandem
