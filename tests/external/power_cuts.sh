#!/usr/bin/env bash
# Power cuts: what the journal acknowledged is there after the file system was shut down under it.
#
# A writer appends to a data folder on a fresh ext4 or xfs and notes on another disk what was
# acknowledged. The file system is shut down without flushing its log (the EXT4_IOC_SHUTDOWN and
# XFS_IOC_GOINGDOWN request, which xfstests uses): what was written back is there, what only the
# log's open transaction knew is not. The writer must end by itself with code 74. After a remount
# the writer's other mode must find everything acknowledged and no head file that knows more, go on
# writing, and find everything again.
#
# Each file system gets three sorts of cut: in a fresh folder within its first moments, in one with
# 2,000 synced events, and with large values and small tables, so that tables are on their way into
# the store all the time. A last cut runs on a disk that says it has synced and has not; that one
# must be noticed, or this script would prove nothing.
#
# usage: power_cuts.sh [ENGINE]        (redb)
# CUTS         cuts for each file system (3; a full run is 60)
# FILESYSTEMS  "ext4 xfs"
# SORTS        "fresh warm moving"
# What it needs: root, loop devices, python3; strace for the control. See _faults.sh.
source "$(dirname "${BASH_SOURCE[0]}")/_faults.sh"

engine=${1:-redb}
cuts=${CUTS:-3}
disk_mib=512
read -ra sorts <<<"${SORTS:-fresh warm moving}"

need_disks
need python3 python3
for kind in ${FILESYSTEMS:-ext4 xfs}; do
    [[ $kind != xfs ]] || need mkfs.xfs xfsprogs
done
build_writer

cut_power() {
    python3 - "$1" <<'PYTHON'
import fcntl, os, struct, sys
SHUTDOWN = 0x8004587D  # _IOR('X', 125, uint32_t), the same number for ext4 and xfs
NO_LOG_FLUSH = 2
folder = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
PYTHON
}

pause_ms() {
    sleep "$(awk "BEGIN { print $1 / 1000 }")"
}

# one_cut KIND SORT: leaves its words in $figures; succeeds if nothing is wrong.
one_cut() {
    local kind=$1 sort=$2 options=() least=1 most=400 why=
    new_disk "$kind" $disk_mib
    : >"$work/notes"
    case $sort in
    # Every other one within the moments in which the folder is made.
    fresh) ((cut % 2 == 0)) || most=80 ;;
    warm)
        "$writer" write "$engine" "$disk/data" "$work/notes" events=500 >/dev/null
        sync -f "$disk"
        most=1500
        ;;
    moving)
        options=(table_bytes=1000000 payload_bytes=4000 clients=12)
        "$writer" write "$engine" "$disk/data" "$work/notes" events=100 "${options[@]}" >/dev/null
        least=300
        most=2500
        ;;
    esac
    local before after
    before=$(wc -l <"$work/notes")
    begin "$writer" write "$engine" "$disk/data" "$work/notes" "${options[@]}" >"$work/out" 2>&1
    # A fresh folder is cut at any moment, while it is made as well; others once they are written.
    [[ $sort == fresh ]] || wait_for 20 has_lines "$work/notes" $((before + 1)) || why="no writes"
    pause_ms $((least + RANDOM % (most - least)))
    cut_power "$disk"
    wait_for 10 is_gone "$began" || why="the writer did not end by itself"
    end 9 "$began"
    case $code in
    74) ;;
    # Whoever is cut off while opening does not open, and says so.
    3) [[ $sort == fresh ]] || why="the writer ended with $code: $(<"$work/out")" ;;
    *) why="the writer ended with $code: $(<"$work/out")" ;;
    esac
    umount "$disk"
    mount "$loop" "$disk"
    after=$(wc -l <"$work/notes")
    segments=$(find "$disk/data" -name 'log-*' 2>/dev/null | wc -l)
    verify "$disk/data" "$work/notes" || why="${why:-$said}"
    figures="$((after - before)) acknowledged before the cut, $segments segments; $said"
    if [[ -z "$why" ]]; then
        "$writer" write "$engine" "$disk/data" "$work/notes" events=20 >"$work/out" 2>&1 ||
            why="it does not go on: $(<"$work/out")"
        verify "$disk/data" "$work/notes" || why="${why:-later: $said}"
    fi
    drop_disk
    figures="$figures${why:+; $why}"
    [[ -z "$why" ]]
}

# The control: syncs succeed without being done. Something acknowledged must be missing.
lying_disk() {
    new_disk "$1" $disk_mib
    : >"$work/notes"
    begin strace -f -qq -o /dev/null -e trace=fsync,fdatasync \
        -e inject=fsync,fdatasync:retval=0 \
        "$writer" write "$engine" "$disk/data" "$work/notes" >"$work/out" 2>&1
    wait_for 60 has_lines "$work/notes" 200 || true
    cut_power "$disk"
    wait_for 5 is_gone "$began" || true
    end 9 "$began"
    umount "$disk"
    mount "$loop" "$disk"
    local status=0
    verify "$disk/data" "$work/notes" || status=$?
    figures=$said
    drop_disk
    ((status != 0))
}

acknowledged_total=0
moving=0
head_lag_max=0
slots_torn=0
for kind in ${FILESYSTEMS:-ext4 xfs}; do
    for ((cut = 0; cut < cuts; cut++)); do
        sort=${sorts[cut % ${#sorts[@]}]}
        what="$kind, $sort, cut $((cut + 1))"
        if one_cut "$kind" "$sort"; then pass "$what: $figures"; else fail "$what: $figures"; fi
        acknowledged_total=$((acknowledged_total + ${figures%% *}))
        ((segments < 2)) || moving=$((moving + 1))
        lag=$(sed -n 's/.*head_behind_records \([0-9]*\).*/\1/p' <<<"$figures")
        ((${lag:-0} <= head_lag_max)) || head_lag_max=$lag
        slots=$(sed -n 's/.*head_slots \([0-9]*\).*/\1/p' <<<"$figures")
        ((${slots:-2} == 2)) || slots_torn=$((slots_torn + 1))
    done
    if command -v strace >/dev/null; then
        if lying_disk "$kind"; then
            pass "$kind: a disk that lies is noticed: $figures"
        else
            fail "$kind: a disk that lies was not noticed: $figures"
        fi
    fi
done
echo "appends acknowledged just before the cuts: $acknowledged_total; cuts while a table was on"
echo "its way: $moving; head file behind by at most $head_lag_max records; fewer than two whole"
echo "head slots after $slots_torn cuts"
