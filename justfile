# Common commands. `just --list` shows them.

# Start a server at http://127.0.0.1:1234/
run *arguments:
    cargo run --release -- {{arguments}}

# Formatting, lints and the fast tests: under two minutes when everything is built
test:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    export SYNCLINE_FUZZ_SECONDS=2 SYNCLINE_PLANS=500; \
    if command -v cargo-nextest >/dev/null; then cargo nextest run --workspace --locked --status-level fail; \
    else cargo test --workspace --locked --quiet; fi

# Everything that continuous integration runs
test-all:
    ./tests/run

# The benchmark, beside a bare relay
bench:
    cargo run --release -p syncline-sim -- bench --against floor

# The fuzz targets, for two minutes
fuzz seconds="120":
    SYNCLINE_FUZZ_SECONDS={{seconds}} cargo test -p syncline-tests --locked --test it formats::fuzz

# Advisories, licences and sources of all dependencies (needs cargo-deny)
deny:
    cargo deny check
