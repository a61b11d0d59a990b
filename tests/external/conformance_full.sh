#!/usr/bin/env bash
# Conformance at full size: what `persistence/tests/conformance` asks of each engine, with the sizes
# that a release is tried with, and the checks of the checks beside them.
# ci: no
#
# | check | what | what must be found wrong (C17) |
# | --- | --- | --- |
# | C5 | power cuts on ext4 and xfs: `power_cuts.sh` | a disk that says it has synced |
# | C6 | power cuts on a disk that tears and reorders sectors | one sync in 50 left out |
# | C10 | a killed store of 1 GiB opens within 2 s | a log that is never moved |
# | C11 | a million rewrites and a million deletions; at most 2.5 times what is live | deletions lost |
# | C12 | commits for a while; p99.9 below ten medians | one commit in twenty stalls |
#
# usage: conformance_full.sh [CHECK...]        (C5 C6 C10 C11 C12)
# CUTS 60, SEEDS 20000, MB 1024, KEYS 20000, REWRITES 50, SECONDS_EACH 600: the sizes.
# TMPDIR must be a disk, with four times MB free. C5 needs what `_faults.sh` says.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
checks=("$@")
((${#checks[@]} > 0)) || checks=(C5 C6 C10 C11 C12)
passed=0
failed=0

# run WHAT COMMAND...
run() {
    local what=$1 began=$SECONDS
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "ok: $what ($((SECONDS - began)) s)"
    else
        failed=$((failed + 1))
        echo "FAILED: $what ($((SECONDS - began)) s)"
    fi
}

# conformance NAME...: those tests, optimised, one at a time, with what they measure.
conformance() {
    cargo test -q --locked --release -p persistence --test conformance -- \
        --test-threads=1 --nocapture "$@" | grep -vE '^(running|test result)|^$'
}

power_cuts() {
    FAULTS_PROFILE=release CUTS=${CUTS:-60} "$root/tests/external/power_cuts.sh" "$1"
}

export CONFORMANCE_SEEDS=${SEEDS:-20000} CONFORMANCE_MB=${MB:-1024}
export CONFORMANCE_KEYS=${KEYS:-20000} CONFORMANCE_REWRITES=${REWRITES:-50}
export CONFORMANCE_LATENCY_SECONDS=${SECONDS_EACH:-600}
# As the server has them.
export CONFORMANCE_TABLE_BYTES=$((16 * 1024 * 1024))

for check in "${checks[@]}"; do
    case $check in
    C5)
        for engine in redb sled; do run "C5 on $engine" power_cuts "$engine"; done
        ;;
    C6) run "C6" conformance c6_ c17_a_log_that_leaves_out c17_a_store_that_leaves_out ;;
    C10) run "C10" conformance c10_ c17_a_store_that_leaves_all ;;
    C11) run "C11" conformance c11_ c17_an_engine_that_keeps ;;
    C12) run "C12" conformance c12_ c17_an_engine_that_stalls ;;
    *)
        echo "unknown check $check" >&2
        exit 2
        ;;
    esac
done
echo "$passed passed, $failed failed"
((failed == 0))
