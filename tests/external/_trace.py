"""Reads what strace wrote (`-f -y --decode-pids=comm`) and checks orders in it.

_trace.py syncs TRACE DATA NOTES      every note of the journal's writer comes after its sync
_trace.py answers TRACE DATA PATH     every answer to a POST to PATH comes after its sync
_trace.py silence TRACE NOTES         nothing is noted after the journal's thread met a failure

Prints what it counted, or the first thing that is wrong, and then ends with 1.
"""

import re
import sys

LINE = re.compile(r"^(?P<pid>\d+)(?:<(?P<name>[^>]*)>)? +(?P<rest>.*)$")
RESUMED = re.compile(r"^<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)$")
CALL = re.compile(r"^(?P<call>\w+)\((?P<rest>.*)$")
DESCRIPTOR = re.compile(r"^\d+<(?P<path>[^>]*)>")
RESULT = re.compile(r"\) += (?P<result>-?\d+|\?)(?:<(?P<path>[^>]*)>)?")
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
SYNCS = ("fsync", "fdatasync")
WRITES = ("write", "pwrite64", "writev", "pwritev", "ftruncate", "sendto", "sendmsg")
# Holds nothing, and is made anew when it is missing.
NOT_DATA = ("/lock",)


class Call:
    """One system call: `begun` and `ended` are numbers of lines."""

    def __init__(self, line, thread, call, rest):
        self.begun = self.ended = line
        self.thread, self.call, self.rest = thread, call, rest
        self.result = None
        self.injected = False

    def end(self, line, rest):
        self.ended = line
        self.rest += rest
        found = RESULT.search(self.rest)
        if found and found["result"] != "?":
            self.result = int(found["result"])
        self.made = found["path"] if found else None
        self.injected = "(INJECTED)" in self.rest

    @property
    def path(self):
        found = DESCRIPTOR.match(self.rest)
        return found["path"] if found else ""

    @property
    def texts(self):
        return TEXT.findall(self.rest)

    @property
    def succeeded(self):
        return self.result is not None and self.result >= 0


def read(path):
    calls, open_calls = [], {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines):
            found = LINE.match(line.rstrip("\n"))
            if not found:
                continue
            rest = found["rest"]
            resumed = RESUMED.match(rest)
            if resumed:
                call = open_calls.pop(found["pid"], None)
                if call:
                    call.end(number, resumed["rest"])
                continue
            begun = CALL.match(rest)
            if not begun:
                continue
            call = Call(number, found["name"] or "", begun["call"], begun["rest"])
            calls.append(call)
            if call.rest.endswith("<unfinished ...>"):
                call.rest = call.rest.removesuffix("<unfinished ...>")
                open_calls[found["pid"]] = call
            else:
                call.end(number, "")
    return calls


def require(condition, what):
    if not condition:
        print(what)
        sys.exit(1)


def synced(calls, path, after, before):
    """Whether a sync of `path` began after line `after` and had succeeded by line `before`."""
    return any(
        call.call in SYNCS and call.path == path and call.succeeded and not call.injected
        and call.begun > after and call.ended < before
        for call in calls
    )


def log_writes(calls, data):
    return [call for call in calls
            if call.call in WRITES and call.path.startswith(f"{data}/log-") and call.succeeded]


def check_folders(calls, data, first_note):
    """Whatever was made or renamed before the first note stands in a folder that was synced."""
    checked, known = 0, set()
    for call in calls:
        if not call.succeeded or call.begun > first_note:
            continue
        if call.call == "openat" and "O_CREAT" in call.rest and call.made:
            path = call.made
            if path.endswith(NOT_DATA) or path.endswith("tmp") or path in known:
                continue
        elif call.call.startswith("rename"):
            old, path = call.texts[0], call.texts[-1]
            last = max((write.ended for write in calls if write.call in WRITES
                        and write.path == old and write.ended < call.begun), default=0)
            require(synced(calls, old, last, call.begun), f"{old} is renamed and was not synced")
        elif call.call == "mkdir":
            path = call.texts[0]
        else:
            continue
        if path in known or not (path.startswith(data) or data.startswith(path + "/")):
            continue
        known.add(path)
        folder = path.rsplit("/", 1)[0]
        require(synced(calls, folder, call.ended, first_note),
                f"{path} was made and {folder} was not synced before the first note")
        checked += 1
    return checked


def check_store(calls, data):
    """A segment goes only when what the store was given from it is synced.

    Shortening a file is no such write: redb drops what it has already given up."""
    removed = 0
    for call in calls:
        if not call.call.startswith("unlink") or not call.succeeded:
            continue
        if not call.texts[-1].startswith(f"{data}/log-"):
            continue
        removed += 1
        # By any thread: sled writes in threads of its own. Only the mover gives stores anything.
        writes = [write for write in calls if write.call in WRITES
                  and write.call != "ftruncate" and write.path.startswith(f"{data}/journal.")
                  and write.ended < call.begun]
        require(writes, f"{call.texts[-1]} went before anything was moved")
        last = writes[-1]
        require(synced(calls, last.path, last.ended, call.begun),
                f"{call.texts[-1]} went before {last.path} was synced")
    return removed


def syncs(trace, data, notes):
    calls = read(trace)
    noted = [call for call in calls if call.call == "write" and call.path == notes]
    require(noted, "nothing was noted")
    writes = log_writes(calls, data)
    at = 0
    for note in noted:
        own = [call for call in writes if at < call.ended < note.begun]
        require(own, f"line {note.begun}: a note without a write to the log")
        require(synced(calls, own[-1].path, own[-1].ended, note.begun),
                f"line {note.begun}: noted before {own[-1].path} was synced")
        at = note.begun
    keys = f"{data}/data-keys"
    for call in calls:
        if call.call == "write" and call.path == keys:
            following = min((one.begun for one in writes if one.begun > call.ended), default=None)
            require(following is None or synced(calls, keys, call.ended, following),
                    f"line {call.begun}: a key was used before it was synced")
    others = [call.call for call in calls if call.call in ("sync_file_range", "msync")]
    made = check_folders(calls, data, noted[0].begun)
    removed = check_store(calls, data)
    print(f"{len(noted)} notes, each after the sync of its commit; {made} new names in synced "
          f"folders; {removed} segments removed after the store was synced; "
          f"{len(others)} syncs of another sort")


def answers(trace, data, path):
    calls = read(trace)
    writes = log_writes(calls, data)
    asked, answered = None, 0
    for call in calls:
        words = call.texts[0] if call.texts else ""
        if call.call in ("read", "recvfrom") and words.startswith(f"POST {path}"):
            asked = call
        elif asked and call.call in WRITES and words.startswith("HTTP/1.1 2"):
            own = [one for one in writes if asked.begun < one.begun and one.ended < call.begun]
            require(own, f"line {call.begun}: answered without a write to the log")
            require(synced(calls, own[0].path, own[0].ended, call.begun),
                    f"line {call.begun}: answered before {own[0].path} was synced")
            asked, answered = None, answered + 1
    require(answered, f"no answer to {path} was seen")
    print(f"{answered} answers, each after the sync of its commit")


def silence(trace, notes):
    calls = read(trace)
    failures = [call for call in calls if call.injected and call.thread == "journal"]
    if failures:
        later = [call for call in calls if call.call == "write" and call.path == notes
                 and call.begun > failures[0].ended]
        require(not later, f"line {failures[0].begun} failed, {len(later)} notes follow")
    injected = [call for call in calls if call.injected]
    print(f"{len(injected)} injected"
          + (f", first {injected[0].call} in {injected[0].thread}" if injected else ""))


if __name__ == "__main__":
    {"syncs": syncs, "answers": answers, "silence": silence}[sys.argv[1]](*sys.argv[2:])
