#!/bin/sh
# Builds every fuzz target on stable Rust and runs each for SECONDS.
#
#   fuzz/run.sh SECONDS [TARGET]...
#
# Inputs that crash stay in fuzz/artifacts/TARGET; new coverage goes to a directory below
# fuzz/target, so that fuzz/corpus holds what is committed and nothing else.
set -eu

seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET]...}
shift
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- wire router mld_wire mld_router spec state relay dhcp dhcp_client dhcp6_client

# What cargo-fuzz passes, without the sanitizers, which need nightly. The target directory is
# the crate's own: the flags would otherwise rebuild all of the product's.
coverage='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1'
# The C++ half of libFuzzer links dynamically.
RUSTFLAGS="$(echo $coverage) -Ctarget-feature=-crt-static --cfg fuzzing"
export RUSTFLAGS
export CARGO_TARGET_DIR="$PWD/target"
host=$(rustc -vV | sed -n 's/^host: //p')
# Naming the target keeps the flags away from build scripts.
cargo build --release --target "$host"

# As many at a time as there are processors. What a target says is shown when it has ended.
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export seconds host logs
status=0
printf '%s\n' "$@" | xargs -P "$(nproc)" -I TARGET sh -euc '
    target=TARGET
    mkdir -p "artifacts/$target" "target/corpus/$target" "corpus/$target"
    echo "fuzzing $target for $seconds s"
    "target/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
        -print_final_stats=1 -verbosity=0 -artifact_prefix="artifacts/$target/" \
        "target/corpus/$target" "corpus/$target" >"$logs/$target" 2>&1' || status=$?
for target; do
    echo "$target:"
    cat "$logs/$target"
done
exit "$status"
