# What the fault scripts share: sourced, never run.
#
# It makes a work folder, builds the journal's writer into it, counts what passed and what failed,
# and at the end, however that comes, ends processes, thaws, unmounts and detaches what the script
# began, and prints the one closing line.
#
# JOURNAL_WRITER   a writer that is already built; otherwise cargo builds one
# FAULTS_PROFILE   `release` builds with optimisation (the default does not)
# TMPDIR           where the work folder and the images of disks are; not in memory
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
external=$root/tests/external
name=$(basename "$0" .sh)
passed=0
failed=0
processes=()
mounts=()
loops=()
frozen=()
work=$(mktemp -d "${TMPDIR:-/tmp}/$name.XXXXXX")

finish() {
    local status=$? one
    trap - EXIT
    set +e
    for one in "${frozen[@]}"; do fsfreeze -u "$one" 2>/dev/null; done
    for one in "${processes[@]}"; do
        # What a tracer started goes first, or it would run on without it.
        pkill -9 -P "$one" 2>/dev/null
        kill -9 "$one" 2>/dev/null
        wait "$one" 2>/dev/null
    done
    for one in "${mounts[@]}"; do mountpoint -q "$one" && { umount "$one" || umount -l "$one"; }; done
    for one in "${loops[@]}"; do losetup "$one" >/dev/null 2>&1 && losetup -d "$one"; done
    if ((failed > 0)) && [[ -n "${FAULTS_KEEP:-}" ]]; then
        echo "kept: $work"
    else
        rm -rf "$work"
    fi
    if ((passed + failed > 0)); then
        ((status == 0)) || ((failed > 0)) || failed=1
        echo "$passed passed, $failed failed"
    fi
    ((failed == 0)) || exit 1
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# This machine cannot do it, which is nobody's fault.
skip() {
    echo "skipped: $*"
    exit 0
}

pass() {
    passed=$((passed + 1))
    echo "ok: $*"
}

fail() {
    failed=$((failed + 1))
    echo "FAILED: $*"
}

# check WHAT COMMAND...: passes when the command succeeds.
check() {
    local what=$1
    shift
    if "$@"; then pass "$what"; else fail "$what"; fi
}

# need PROGRAM PACKAGE: installs what is missing if that is allowed here.
need() {
    command -v "$1" >/dev/null && return
    [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null || skip "needs $1 (package $2)"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$2"; } >"$work/install" 2>&1 ||
        skip "$1 (package $2) could not be installed"
}

# Loop devices and mounts are root's alone, and not every container has them.
need_disks() {
    [[ $(id -u) -eq 0 ]] || skip "needs root, for loop devices and mounts"
    need losetup mount
    need mkfs.ext4 e2fsprogs
    truncate -s 64M "$work/probe"
    local loop
    loop=$(losetup -f --show "$work/probe" 2>"$work/why") || skip "no loop device: $(<"$work/why")"
    loops+=("$loop")
    mkfs.ext4 -q "$loop"
    mkdir "$work/probed"
    mount "$loop" "$work/probed" 2>"$work/why" || skip "no mount: $(<"$work/why")"
    umount "$work/probed"
    losetup -d "$loop"
    rm -r "$work/probe" "$work/probed"
}

need_strace() {
    need strace strace
    strace -o "$work/probe" -e inject=getppid:error=EPERM true 2>"$work/why" ||
        skip "strace may not trace here: $(head -n 1 "$work/why")"
}

# new_disk TYPE MIB: a fresh file system, mounted at $disk from $loop.
new_disk() {
    disk=$work/disk
    mkdir -p "$disk"
    rm -f "$work/image"
    truncate -s "$2M" "$work/image"
    case $1 in
    ext4) mkfs.ext4 -q -m 0 "$work/image" ;;
    xfs) mkfs.xfs -q -f "$work/image" ;;
    *) return 2 ;;
    esac
    loop=$(losetup -f --show "$work/image")
    loops+=("$loop")
    mounts=("$disk")
    mount "$loop" "$disk"
}

drop_disk() {
    umount "$disk"
    losetup -d "$loop"
    rm -f "$work/image"
}

# Sets $writer to a copy of the writer, so that a build beside this run does not change it.
build_writer() {
    writer=$work/journal_writer
    if [[ -n "${JOURNAL_WRITER:-}" ]]; then
        cp "$JOURNAL_WRITER" "$writer"
        return
    fi
    command -v cargo >/dev/null || skip "needs cargo, or a built writer in JOURNAL_WRITER"
    local flags=() profile=debug
    [[ "${FAULTS_PROFILE:-}" == release ]] && flags=(--release) profile=release
    (cd "$root" && cargo build -q --locked "${flags[@]}" -p persistence --example journal_writer)
    cp "${CARGO_TARGET_DIR:-$root/target}/$profile/examples/journal_writer" "$writer"
}

# Sets $server to a copy of the server if one is built: BAILIWICK, or the newest build.
find_server() {
    local target=${CARGO_TARGET_DIR:-$root/target} built
    built=${BAILIWICK:-$(ls -t "$target"/{release,debug}/bailiwick 2>/dev/null | head -n 1)}
    [[ -n "$built" ]] || return 1
    server=$work/bailiwick
    cp "$built" "$server"
}

# begin COMMAND...: starts it in the background; $began is its process id.
begin() {
    "$@" &
    began=$!
    processes+=("$began")
}

# end SIGNAL PID: sends it and waits; sets $code.
end() {
    kill "-$1" "$2" 2>/dev/null || true
    code=0
    wait "$2" 2>/dev/null || code=$?
}

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < until)) || return 1
        sleep 0.05
    done
}

has_lines() {
    [[ -f "$1" ]] && (($(wc -l <"$1") >= $2))
}

is_gone() {
    ! kill -0 "$1" 2>/dev/null
}

# verify FOLDER NOTES: $said is what the writer found; its exit code is passed on.
verify() {
    local status=0
    said=$(timeout 120 "$writer" verify "$engine" "$1" "$2" 2>&1) || status=$?
    return "$status"
}
