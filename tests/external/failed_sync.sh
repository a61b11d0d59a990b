#!/usr/bin/env bash
# Failed syncs and writes: nobody is told that they succeeded, the process ends, a restart replays.
#
# Injected: the journal's writer runs under strace, which lets the N-th fdatasync, fsync, write or
# rename of a thread fail, for N from 1 on. The writer must end with 74, or with 3 while it opens,
# name a reason, and note nothing after its journal met the failure. Then, without failures, all
# that was noted must be there and the journal must go on.
#
# Killed: the same with a SIGKILL in the place of the N-th call of any kind, in a fresh folder and
# so while it is made, in one that was written before, and with a table so small that tables are
# moved all the time.
#
# A disk that fails: an ext4 whose device refuses blocks behind some place. After the failed sync
# the kernel keeps the pages that it could not write and shows them to every reader. So the device
# is repaired, the writer is started again and notes more, and then all caches are dropped: what
# it noted must still be there, since a restart may build only on what the disk has.
#
# usage: failed_sync.sh [ENGINE]       (redb)
# KILLS_MAX    the last N of the killed calls (12; a full run is 200)
# FAILS_MAX    the last N of the failed calls (4; a full run is 60)
# DISKS        how often a disk fails (1; a full run is 10)
# What it needs: strace, python3; root and loop devices for the disk. See _faults.sh.
source "$(dirname "${BASH_SOURCE[0]}")/_faults.sh"

engine=${1:-redb}
kills_max=${KILLS_MAX:-12}
fails_max=${FAILS_MAX:-4}
disks=${DISKS:-1}
killable=write,pwrite64,fdatasync,fsync,ftruncate,mkdir,unlink,rename,openat
data=$work/data
notes=$work/notes

need_strace
need python3 python3
build_writer

# A folder that was written before, so that the next process opens and then appends.
prepare() {
    rm -rf "$data" "$notes"
    : >"$notes"
    [[ $1 == fresh ]] ||
        "$writer" write "$engine" "$data" "$notes" events=30 clients=1 >"$work/out"
}

# under INJECTION OPTION...: runs the writer with one client; sets $code.
under() {
    local injection=$1
    shift
    code=0
    # In braces, so that the shell's own word about a killed process goes nowhere.
    {
        timeout 120 strace -f -qq -y --decode-pids=comm -s 0 -o "$work/trace" \
            -e "trace=$killable" -e "inject=$injection" \
            "$writer" write "$engine" "$data" "$notes" events=300 clients=1 "$@" \
            >"$work/out" 2>"$work/errors"
    } 2>/dev/null || code=$?
}

# Everything noted is there, and it goes on.
recovers() {
    verify "$data" "$notes" || return 1
    "$writer" write "$engine" "$data" "$notes" events=5 >"$work/out" 2>&1 || return 1
    verify "$data" "$notes"
}

# failures SORT CALL ERRNO
failures() {
    local sort=$1 call=$2 errno=$3 n hit=0 wrong=0
    for ((n = 1; n <= fails_max; n++)); do
        prepare "$sort"
        under "$call:error=$errno:when=$n" table_bytes=20000
        grep -q INJECTED "$work/trace" || break
        hit=$((hit + 1))
        local why=
        # The writer's own output and notes are written, too: their failure is not the journal's.
        case $code in
        74) grep -q 'the journal failed: .*' "$work/errors" || why="no reason was given" ;;
        3) grep -q 'does not open: .*' "$work/errors" || why="no reason was given" ;;
        *) why="ended with $code: $(head -n 3 "$work/errors")" ;;
        esac
        [[ $call == write && $code == 101 ]] && why=
        said=$(python3 "$external/_trace.py" silence "$work/trace" "$notes" 2>&1) || why=$said
        recovers || why="${why:-after it: $said $(<"$work/out")}"
        [[ -z "$why" ]] || { wrong=$((wrong + 1)) && echo "  $call $errno, N = $n: $why"; }
    done
    if ((hit > 0 && wrong == 0)); then
        pass "$sort, $call fails with $errno, N = 1 to $hit: it ends and replays"
    else
        fail "$sort, $call fails with $errno: $wrong wrong of $hit"
    fi
}

# kills SORT OPTION...
kills() {
    local sort=$1 n=0 killed=0 wrong=0
    shift
    for ((n = 1; n <= kills_max; n++)); do
        prepare "$sort"
        under "$killable:signal=KILL:when=$n" "$@"
        ((code == 137)) || break
        killed=$((killed + 1))
        recovers || { wrong=$((wrong + 1)) && echo "  $sort $*, N = $n: $said $(<"$work/out")"; }
    done
    if ((killed > 0 && wrong == 0)); then
        pass "killed at call N = 1 to $killed, $sort${*:+, $*}: all noted is there"
    else
        fail "killed, $sort $*: $wrong wrong of $killed"
    fi
}

# limit DEVICE BYTES: the device refuses what is behind; 0 for all of it again.
limit() {
    python3 - "$1" "$2" <<'PYTHON'
import fcntl, struct, sys
GET_STATUS, SET_STATUS, SIZE_LIMIT_AT = 0x4C05, 0x4C04, 32  # struct loop_info64
with open(sys.argv[1], "rb") as device:
    status = bytearray(232)
    fcntl.ioctl(device, GET_STATUS, status)
    struct.pack_into("<Q", status, SIZE_LIMIT_AT, int(sys.argv[2]))
    fcntl.ioctl(device, SET_STATUS, bytes(status))
PYTHON
}

failing_disk() {
    local least=$1 end why=
    disk=$work/disk
    mkdir -p "$disk"
    truncate -s 128M "$work/image"
    mkfs.ext4 -q -m 0 -b 4096 -E lazy_itable_init=0 "$work/image"
    loop=$(losetup -f --show "$work/image")
    loops+=("$loop")
    mounts=("$disk")
    mount "$loop" "$disk"
    # So that the log comes to lie behind everything that the file system itself needs.
    dd if=/dev/zero of="$disk/ballast" bs=1M count=80 2>/dev/null
    : >"$notes"
    "$writer" write "$engine" "$disk/data" "$notes" events=300 >"$work/out"
    sync -f "$disk"
    # Behind every block that is in use, so that what was written before can still be read.
    end=$(find "$disk/data" -type f -exec filefrag -v {} + |
        awk '/^ *[0-9]+:/ { gsub("[.:]", ""); if ($5 > end) end = $5 } END { print end + 0 }')
    limit "$loop" $(((end + least) * 4096))
    code=0
    timeout 60 "$writer" write "$engine" "$disk/data" "$notes" events=20000 payload_bytes=30000 \
        >"$work/out" 2>&1 || code=$?
    ((code == 74)) || why="ended with $code: $(<"$work/out")"
    limit "$loop" 0
    "$writer" write "$engine" "$disk/data" "$notes" events=20 >"$work/out" 2>&1 ||
        why="does not start again: $(<"$work/out")"
    sync -f "$disk" 2>/dev/null || true
    echo 3 >/proc/sys/vm/drop_caches
    verify "$disk/data" "$notes" || why="${why:+$why; }$said"
    drop_disk
    [[ -z "$why" ]] || { said=$why && return 1; }
}

for sort in fresh warm; do
    failures $sort fdatasync EIO
    failures $sort fsync EIO
    failures $sort pwrite64 ENOSPC
    failures $sort write EIO
    failures $sort write ENOSPC
done
failures fresh rename EIO
kills fresh
kills fresh table_bytes=20000
kills warm
kills warm table_bytes=20000

need_disks
need filefrag e2fsprogs
for ((n = 0; n < disks; n++)); do
    if failing_disk $((60 + n * 37)); then
        pass "a disk that fails and comes back: $said"
    else
        fail "a disk that fails and comes back: $said"
    fi
done
