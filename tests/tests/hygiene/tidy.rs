//! What every file of the repository must look like.
//!
//! The walk takes the folder as it is, less build output, run-time data, hidden folders (`.ci` is
//! read) and test data. Text of any kind has no trailing white space and no path of a developer's
//! machine; sources have no marks of unfinished work; Rust files also keep to their length, open
//! with a head comment, give a reason for each lint exception and never sleep in a test unless a
//! comment says why. The length of functions is left to clippy, which parses; the check here is
//! that clippy is told the limit.
//!
//! Limits: a mark inside a string is not seen, and the tests of a file are taken to reach from
//! its first inline test module to its end.

use std::io;
use std::path::{Path, PathBuf};

use crate::source::{self, Line, is_word};

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: i64 = 70;
const LINE_COLUMNS_MAX: usize = 100;
/// A reason of fewer words is not one.
const REASON_WORDS_MIN: usize = 3;

const HIDDEN_BUT_READ: &[&str] = &[".ci"];
const SKIPPED_AT_ROOT: &[&str] = &["target", "data"];
const SKIPPED_ANYWHERE: &[&str] = &["testdata", "node_modules", "__pycache__"];

/// Prose and data may speak of unfinished work; sources may not have any.
const WITHOUT_MARKS: &[&str] = &["md", "json", "lock", "txt"];
const MARKS: &[&str] = &["TODO", "FIXME"];
const MACROS: &[&str] = &["dbg!", "todo!", "unimplemented!"];
/// Put together here, so that this file does not hold what it looks for.
const MACHINE_PATHS: &[&str] =
    &[concat!("/", "work/"), concat!("/", "home/"), concat!("/", "root/")];

/// A line number, from 1, and what is wrong there.
type Finding = (usize, String);

#[test]
fn the_repository_is_tidy() -> io::Result<()> {
    let root = root();
    let mut found = Vec::new();
    let mut own_file_was_read = false;
    for path in files(&root)? {
        let Ok(text) = String::from_utf8(std::fs::read(root.join(&path))?) else {
            continue;
        };
        own_file_was_read |= path.ends_with("tests/tests/hygiene/tidy.rs");
        if !text.contains('\0') {
            found.extend(findings(&path.to_string_lossy(), &text));
        }
    }
    assert!(own_file_was_read, "the walk from {} missed this file", root.display());
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
    Ok(())
}

#[test]
fn clippy_watches_the_length_of_functions() -> io::Result<()> {
    let clippy: toml::Table = manifest("clippy.toml")?;
    let threshold = clippy.get("too-many-lines-threshold").and_then(toml::Value::as_integer);
    assert_eq!(threshold, Some(FUNCTION_LINES_MAX));
    let level = manifest("Cargo.toml")?["workspace"]["lints"]["clippy"]["too_many_lines"].clone();
    assert_eq!(level.as_str(), Some("warn"), "the build turns warnings into errors");
    Ok(())
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A TOML file, by its path from the root.
pub(crate) fn manifest(path: &str) -> io::Result<toml::Table> {
    let text = std::fs::read_to_string(root().join(path))?;
    text.parse().map_err(|error| io::Error::other(format!("{path}: {error}")))
}

/// Paths of all files to look at, from the root, sorted.
fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if is_skipped(&path) {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn is_skipped(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_in = |names: &[&str]| names.contains(&name.as_ref());
    let is_at_root = path.components().count() == 1;
    (name.starts_with('.') && !is_in(HIDDEN_BUT_READ))
        || is_in(SKIPPED_ANYWHERE)
        || (is_at_root && is_in(SKIPPED_AT_ROOT))
}

/// All that is wrong with one file, each as `path:line: what`.
fn findings(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.split_terminator('\n')) {
        found.extend(in_any_text(line).map(|what| (number, what)));
    }
    if path.ends_with(".rs") {
        found.extend(in_rust(path, &source::lines(text)));
    } else if !WITHOUT_MARKS.iter().any(|extension| path.ends_with(&format!(".{extension}"))) {
        for (number, line) in (1..).zip(text.lines()) {
            found.extend(marks(line).map(|what| (number, what)));
        }
    }
    found.sort();
    found.into_iter().map(|(number, what)| format!("{path}:{number}: {what}")).collect()
}

fn in_any_text(line: &str) -> impl Iterator<Item = String> {
    let trailing = line.ends_with(char::is_whitespace).then(|| "trailing white space".to_owned());
    let paths = MACHINE_PATHS.iter().filter(|path| {
        line.match_indices(**path).any(|(at, _)| {
            let before = line[..at].chars().next_back().unwrap_or(' ');
            !is_word(before) && !"./-}~)".contains(before) || line[..at].ends_with("//")
        })
    });
    trailing.into_iter().chain(paths.map(|path| format!("`{path}` is a path of one machine")))
}

fn marks(text: &str) -> impl Iterator<Item = String> {
    let found = MARKS.iter().filter(move |mark| has_word(text, mark));
    found.map(|mark| format!("{mark}: finish it or leave it out"))
}

/// Whether `word` occurs in `text` and is not a part of a longer word.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word)
    })
}

fn in_rust(path: &str, lines: &[Line<'_>]) -> Vec<Finding> {
    let mut found = Vec::new();
    if !lines.first().is_some_and(|line| line.full.starts_with("//!")) {
        found.push((1, "open with `//!`: what the file is, its invariants, its limits".to_owned()));
    }
    if lines.len() > FILE_LINES_MAX {
        let what = format!("{} lines, {FILE_LINES_MAX} are allowed", lines.len());
        found.push((FILE_LINES_MAX + 1, what));
    }
    let tests_at = if is_test_file(path) { 0 } else { inline_tests_at(lines) };
    for (at, line) in lines.iter().enumerate() {
        found.extend(in_rust_line(line).map(|what| (at + 1, what)));
        if is_exception_without_reason(&lines[at..]) {
            found.push((at + 1, "a lint exception needs a `reason`".to_owned()));
        }
        if at >= tests_at && calls_sleep(&line.code) && !is_excused(lines, at) {
            let what = "a test waits for what happens, not for time; else say `// sleep: why`";
            found.push((at + 1, what.to_owned()));
        }
    }
    found
}

fn in_rust_line(line: &Line<'_>) -> impl Iterator<Item = String> {
    let columns = line.full.chars().count();
    let too_long = (columns > LINE_COLUMNS_MAX && !may_be_long(line))
        .then(|| format!("{columns} columns, {LINE_COLUMNS_MAX} are allowed"));
    let ignored =
        is_ignore(line).then(|| "a test that does not run: mend it or take it out".to_owned());
    let macros = MACROS.iter().filter(|name| has_word(&line.code, name));
    let macros = macros.map(|name| format!("`{name}` is not for keeps"));
    let marks = marks(&line.code).chain(marks(&line.comment));
    too_long.into_iter().chain(ignored).chain(macros).chain(marks)
}

/// A link cannot be broken, nor can a row of a table of strings: a line that holds a literal and
/// no word of code.
fn may_be_long(line: &Line<'_>) -> bool {
    let is_row = line.has_literal
        && line.comment.is_empty()
        && !line.code.contains(|character: char| character.is_alphabetic());
    is_row || line.full.contains("://")
}

fn is_ignore(line: &Line<'_>) -> bool {
    let code = squeezed(&line.code);
    let conditional = code.contains("cfg_attr(")
        && [",ignore)", ",ignore="].iter().any(|attribute| code.contains(attribute));
    ["#[ignore]", "#[ignore="].iter().any(|attribute| code.contains(attribute))
        || conditional
        || line.comment.contains("```ignore")
}

fn squeezed(code: &str) -> String {
    code.split_whitespace().collect()
}

/// Whether the first of the lines begins an `allow` or `expect` that gives no reason.
fn is_exception_without_reason(lines: &[Line<'_>]) -> bool {
    let first = squeezed(&lines[0].code);
    let openings = ["#[allow(", "#![allow(", "#[expect(", "#![expect("];
    if !openings.iter().any(|opening| first.contains(opening)) {
        return false;
    }
    for line in lines {
        if has_word(&line.code, "reason") {
            return false;
        }
        if squeezed(&line.code).contains(")]") {
            break;
        }
    }
    true
}

fn is_test_file(path: &str) -> bool {
    let path = Path::new(path);
    let is_tests = |part: &std::ffi::OsStr| part == "tests" || part == "tests.rs";
    path.iter().any(is_tests) || path.to_string_lossy().ends_with("_tests.rs")
}

/// The index of the first inline test module; the number of lines when there is none.
fn inline_tests_at(lines: &[Line<'_>]) -> usize {
    let begins = |at: &usize| {
        let code = squeezed(&lines[*at].code);
        if !["#[cfg(test)]", "#[cfg(all(test,"].iter().any(|start| code.starts_with(start)) {
            return false;
        }
        let item = lines[*at..].iter().map(|line| line.code.trim()).find_map(|code| {
            let item = code.strip_prefix("#[cfg(test)]").unwrap_or(code).trim();
            (!item.is_empty() && !item.starts_with('#')).then_some(item)
        });
        item.is_some_and(|item| has_word(item, "mod") && item.ends_with('{'))
    };
    (0..lines.len()).find(begins).unwrap_or(lines.len())
}

/// Whether the code calls a function `sleep`; a method of that name is a simulated clock's.
fn calls_sleep(code: &str) -> bool {
    ["sleep(", "sleep_until("].iter().any(|call| {
        code.match_indices(call).any(|(at, _)| {
            let before = code[..at].trim_end();
            !code[..at].ends_with(is_word) && !before.ends_with('.') && !before.ends_with("fn")
        })
    })
}

/// Whether the line, or the comment right above it, says `sleep:` and why.
fn is_excused(lines: &[Line<'_>], at: usize) -> bool {
    let above = lines[..at].iter().rev().take_while(|line| line.full.trim().starts_with("//"));
    std::iter::once(&lines[at]).chain(above).any(|line| {
        let reason = line.comment.split_once("sleep:").map_or("", |(_, reason)| reason);
        reason.split_whitespace().count() >= REASON_WORDS_MIN
    })
}

/// What is found in a file at `path` that has a head comment above `text`.
fn found(path: &str, text: &str) -> Vec<String> {
    findings(path, &format!("//! A sample.\n{text}"))
}

#[track_caller]
fn assert_clean(path: &str, text: &str) {
    assert_eq!(found(path, text), Vec::<String>::new());
}

#[track_caller]
fn assert_refused(path: &str, text: &str, part: &str) {
    let found = found(path, text);
    assert!(found.len() == 1 && found[0].contains(part), "wanted `{part}`, found {found:?}");
}

#[test]
fn length_and_width_are_limited() {
    assert_clean("a.rs", &"\n".repeat(FILE_LINES_MAX - 1));
    assert_refused("a.rs", &"\n".repeat(FILE_LINES_MAX), "a.rs:701: 701 lines");
    let wide = |start: &str, columns: usize| {
        format!("{start}{}", "é".repeat(columns - start.chars().count()))
    };
    assert_clean("a.rs", &wide("// ", LINE_COLUMNS_MAX));
    assert_refused("a.rs", &wide("// ", LINE_COLUMNS_MAX + 1), "a.rs:2: 101 columns");
    assert_clean("a.rs", &wide("// https://example.org/", LINE_COLUMNS_MAX + 1));
    assert_clean("a.rs", &format!("    (\"{}\", 1),", wide("row", 120)));
    assert_clean("a.rs", &format!("const A: &str = r#\"\n{}\n\"#;", wide("text", 120)));
    assert_refused("a.rs", &format!("f(\"{}\");", wide("word", 120)), "columns");
    assert_refused("a.rs", &format!("\"row\", // {}", wide("remark", 120)), "columns");
    assert_clean("notes.md", &wide("", 300));
}

#[test]
fn a_rust_file_opens_with_what_it_is() {
    assert_eq!(findings("a.rs", "//! A sample.\n"), Vec::<String>::new());
    for text in ["", "\n//! Late.\n", "// Not a head.\n", "use std::io;\n"] {
        let found = findings("a.rs", text);
        assert!(found.len() == 1 && found[0].starts_with("a.rs:1: open with"), "{found:?}");
    }
}

#[test]
fn unfinished_work_is_refused() {
    assert_refused("a.rs", "// TODO: more", "TODO");
    assert_refused("a.rs", "/* FIXME */", "FIXME");
    assert_refused("deep/run.py", "# TODO: more", "run.py:2: TODO");
    assert_refused("a.rs", "let a = dbg!(b);", "dbg!");
    assert_refused("a.rs", "fn a() { todo!() }", "todo!");
    assert_refused("a.rs", "fn a() { unimplemented!(\"later\") }", "unimplemented!");
    assert_refused("a.rs", "#[ignore]", "does not run");
    assert_refused("a.rs", "#[ignore = \"slow\"]", "does not run");
    assert_refused("a.rs", "#[cfg_attr(windows, ignore)]", "does not run");
    assert_refused("a.rs", "/// ```ignore", "does not run");
    assert_clean("a.rs", "const A: &str = \"TODO dbg!(x) #[ignore]\"; // TODOS, mytodo!()");
    assert_clean("notes.md", "A TODO list is an app.");
}

#[test]
fn an_exception_from_a_lint_has_a_reason() {
    assert_refused("a.rs", "#[allow(dead_code)]", "reason");
    assert_refused("a.rs", "#![expect(\n    dead_code,\n)]\n// reason", "a.rs:2");
    assert_clean("a.rs", "#[expect(dead_code, reason = \"read by the console\")]");
    assert_clean("a.rs", "#[expect(\n    dead_code,\n    reason = \"read by it\"\n)]");
}

#[test]
fn white_space_at_the_end_and_paths_of_a_machine_are_refused_everywhere() {
    for path in ["a.rs", "notes.md", ".ci/run", "LICENSE"] {
        assert_refused(path, "// a \n", "white space");
        assert_refused(path, "// a\r\n", "white space");
        assert_refused(path, concat!("// see \"/", "work/main\""), "one machine");
        assert_refused(path, concat!("// file:///", "home/me"), "one machine");
        assert_refused(path, concat!("// /", "root/.cargo"), "one machine");
        assert_clean(
            path,
            concat!("// https://example.org/", "home/ {base}/", "work/ ./", "root/"),
        );
    }
}

#[test]
fn a_sleep_in_a_test_needs_its_reason() {
    let sleeps = ["thread::sleep(a);", "tokio::time::sleep(a).await;", "sleep_until(a).await;"];
    for sleep in sleeps {
        assert_refused("tests/tests/a.rs", sleep, "waits");
        assert_refused("gateway/src/a/tests.rs", sleep, "waits");
        assert_clean("gateway/src/a.rs", sleep);
        let module = format!("{sleep}\n#[cfg(test)]\n#[path = \"a\"]\nmod tests {{\n{sleep}\n}}");
        assert_refused("gateway/src/a.rs", &module, "a.rs:6: a test waits");
        assert_refused("tests/a.rs", &format!("// sleep: why?\n{sleep}"), "waits");
        let reason = "sleep: the peer's lease must run out";
        assert_clean("tests/a.rs", &format!("{sleep} // {reason}"));
        assert_clean("tests/a.rs", &format!("// {reason}\n// in real time.\n{sleep}"));
    }
    assert_clean("gateway/src/a.rs", "#[cfg(test)]\nmod tests;\nsleep(a);");
    assert_clean("tests/a.rs", "clock.sleep(a); \"sleep(a)\"; fn sleep(a: u8) {} // sleep(a)");
}

#[test]
fn the_walk_leaves_out_what_is_not_source() -> io::Result<()> {
    let root = tempfile::tempdir()?;
    let wanted = [".ci/run", "a/data/b.rs", "a/target/c.rs", "d.md"];
    let skipped = ["target/a", "data/b", ".git/c", "a/testdata/d", "a/node_modules/e", ".f"];
    for path in wanted.iter().chain(&skipped) {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(root.path()))?;
        std::fs::write(path, "")?;
    }
    assert_eq!(files(root.path())?, wanted.map(PathBuf::from));
    Ok(())
}
