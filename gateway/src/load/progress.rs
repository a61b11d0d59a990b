//! Lines on stderr while a run goes on. A line that replaces itself is only written to a terminal,
//! so logs stay short. Deliberate limit: a stderr that cannot be written to is ignored.

use std::io::{self, IsTerminal as _, Write as _};

/// Replaces the present line, on a terminal; elsewhere nothing is written.
pub(crate) fn show(line: &str) {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{line}");
        let _ = stderr.flush();
    }
}

/// Writes a line that stays.
pub(crate) fn say(line: &str) {
    show("");
    let _ = writeln!(io::stderr(), "{line}");
}
