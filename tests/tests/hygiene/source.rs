//! A Rust file split, character by character, into code, comments and literals.
//!
//! Enough of the lexical structure to ask "is this word code?" without a compiler: line and
//! nested block comments, strings with escapes, raw strings with any number of hashes, byte and C
//! strings, characters as opposed to lifetimes. The Rust Reference, chapter "Tokens", is the
//! source. Limits: it never fails; a file that does not lex is the compiler's to report.

/// One line of a file and what its characters are.
pub(crate) struct Line<'a> {
    /// The line as it stands, without its line feed.
    pub(crate) full: &'a str,
    /// The code alone; each comment and literal is left out.
    pub(crate) code: String,
    /// The text of its comments, marks included.
    pub(crate) comment: String,
    /// Whether some of it belongs to a string or character literal, quotes included.
    pub(crate) has_literal: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// Splits a file into lines, in order.
pub(crate) fn lines(source: &str) -> Vec<Line<'_>> {
    let kinds = kinds(&source.chars().collect::<Vec<_>>());
    let mut kinds = kinds.into_iter();
    let mut lines = Vec::new();
    for with_end in source.split_inclusive('\n') {
        let full = with_end.strip_suffix('\n').unwrap_or(with_end);
        let mut line =
            Line { full, code: String::new(), comment: String::new(), has_literal: false };
        for (character, kind) in with_end.chars().zip(kinds.by_ref()) {
            match kind {
                Kind::Literal => line.has_literal = true,
                _ if character == '\n' => {}
                Kind::Code => line.code.push(character),
                Kind::Comment => line.comment.push(character),
            }
        }
        lines.push(line);
    }
    lines
}

fn kinds(chars: &[char]) -> Vec<Kind> {
    let mut kinds = Vec::with_capacity(chars.len());
    while kinds.len() < chars.len() {
        let rest = &chars[kinds.len()..];
        let in_word = kinds.last() == Some(&Kind::Code) && is_word(chars[kinds.len() - 1]);
        let (length, kind) = token(rest, in_word);
        kinds.resize(kinds.len() + length.clamp(1, rest.len()), kind);
    }
    kinds
}

/// The length and kind of what `rest` begins with. `in_word` tells that the character before was
/// part of an identifier, so that the `r` of `for"` is not taken for a raw string's.
fn token(rest: &[char], in_word: bool) -> (usize, Kind) {
    match (rest[0], rest.get(1).copied()) {
        ('/', Some('/')) => (find(rest, 2, |tail| tail[0] == '\n'), Kind::Comment),
        ('/', Some('*')) => (block_comment(rest), Kind::Comment),
        ('"', _) => (quoted(rest, 1), Kind::Literal),
        ('\'', Some('\\')) => (find(rest, 3, |tail| tail[0] == '\'') + 1, Kind::Literal),
        ('\'', Some(_)) if rest.get(2) == Some(&'\'') => (3, Kind::Literal),
        ('r' | 'b' | 'c', _) if !in_word => match prefixed(rest) {
            Some(length) => (length, Kind::Literal),
            None => (1, Kind::Code),
        },
        _ => (1, Kind::Code),
    }
}

/// The length of a literal that begins with `r`, `b`, `c`, `br` or `cr`, if it is one.
fn prefixed(rest: &[char]) -> Option<usize> {
    let raw_at = usize::from(rest[0] != 'r');
    if rest.get(raw_at) != Some(&'r') {
        return match rest.get(1)? {
            '"' => Some(quoted(rest, 2)),
            '\'' if rest[0] == 'b' => Some(1 + token(&rest[1..], false).0),
            _ => None,
        };
    }
    let hashes = rest[raw_at + 1..].iter().take_while(|&&character| character == '#').count();
    let body_at = raw_at + 1 + hashes;
    if rest.get(body_at) != Some(&'"') {
        return None;
    }
    let ends = |tail: &[char]| {
        tail[0] == '"' && tail.iter().skip(1).take_while(|&&next| next == '#').count() >= hashes
    };
    Some(find(rest, body_at + 1, ends) + 1 + hashes)
}

/// The length of a string whose body begins at `body_at`.
fn quoted(rest: &[char], body_at: usize) -> usize {
    let mut at = body_at;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (at, depth) = (at + 2, depth + 1),
            ['*', '/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The first index, from `from` on, at which `found` holds for the rest; the length when none.
fn find(rest: &[char], from: usize, found: impl Fn(&[char]) -> bool) -> usize {
    (from..rest.len()).find(|&at| found(&rest[at..])).unwrap_or(rest.len())
}

/// Whether a character may be part of an identifier.
pub(crate) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[test]
fn code_comments_and_literals_are_told_apart() {
    let code = |source: &str| {
        lines(source).into_iter().map(|line| line.code).collect::<Vec<_>>().join("|")
    };
    assert_eq!(code("a(\"x // \\\" y\"); b"), "a(); b");
    assert_eq!(code("a // \"b\nc"), "a |c");
    assert_eq!(code("a /* b /* c */\n d */ e"), "a | e");
    assert_eq!(code("a(r\"\\\") b"), "a() b");
    assert_eq!(code("r##\"x\"# \" // \"## a\nb"), " a|b");
    assert_eq!(code("a(br#\"x\"#, b\"y\", c\"z\", b'w') r#type"), "a(, , , ) r#type");
    assert_eq!(code("'\"' '\\'' '\\u{7f}' &'a str"), "   &'a str");
    assert_eq!(code("\"one\ntwo\" + b"), "| + b");
    assert_eq!(code("\"never closed\n\\"), "|");
    assert_eq!(code("write!(var\"x\")"), "write!(var)");
}

#[test]
fn a_line_keeps_its_comment_and_says_whether_it_has_a_literal() {
    let found = lines("a // why\n\"\n\n\" b\n");
    assert_eq!(found[0].full, "a // why");
    assert_eq!(found[0].comment, "// why");
    let literal: Vec<bool> = found.iter().map(|line| line.has_literal).collect();
    assert_eq!(literal, [false, true, true, true]);
}
