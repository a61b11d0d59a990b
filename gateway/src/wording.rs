//! What a reader of JSON or of a query says of a value that does not fit, in words for a client:
//! no type of the server's own, and nothing of what the client sent.
//!
//! Serde has no codes for its mistakes, only sentences, so this reads them. A sentence that is not
//! known is one of our own types', and goes out as it is.

/// Where the mistake is, and what to do about it.
pub struct Mistake {
    /// The field, with its path.
    pub field: String,
    /// What it must be.
    pub message: String,
}

/// The mistake that `text` tells of, at `path` (`.` or empty: the whole; `place` names it then).
pub fn mistake(place: &str, path: &str, text: &str) -> Mistake {
    // What serde says of the place in the text adds nothing to the path.
    let text = text.split(" at line ").next().unwrap_or(text);
    let path = path.trim_matches('.');
    let below = |name: &str| if path.is_empty() { name.into() } else { format!("{path}.{name}") };
    let quoted = text.split('`').nth(1).unwrap_or_default();
    let (field, message) = if text.starts_with("missing field ") {
        (below(quoted), "is required".to_owned())
    } else if text.starts_with("unknown field ") {
        (below(quoted), "is not known here".to_owned())
    } else {
        let own = if path.is_empty() { place } else { path };
        (own.to_owned(), in_words(text))
    };
    Mistake { field, message }
}

fn in_words(text: &str) -> String {
    if let Some((_, choice)) = text.split_once("unknown variant `") {
        let known = choice.split_once("expected ").map_or("", |(_, known)| known);
        return format!("must be {}", known.replace('`', ""));
    }
    let expected = text.split_once(", expected ").map(|(_, expected)| expected);
    if text.starts_with("invalid type: ") {
        return format!("must be {}", expected.map_or("another type", of_type));
    }
    if text.starts_with("invalid value: ") {
        return match expected.map(of_type) {
            Some("an integer") => "must be an integer within its range".to_owned(),
            Some(known) => format!("must be {known}"),
            None => "is not valid".to_owned(),
        };
    }
    if text.starts_with("invalid length ") {
        return "has not as many items as it must have".to_owned();
    }
    if text.starts_with("data did not match any variant") {
        return "has none of the forms that are known here".to_owned();
    }
    of_number(text).map_or_else(|| text.to_owned(), str::to_owned)
}

/// What the standard library says of texts that are no number or boolean.
fn of_number(text: &str) -> Option<&'static str> {
    let known = match text {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "must be an integer"
        }
        "number too large to fit in target type" | "number too small to fit in target type" => {
            "must be an integer within its range"
        }
        "invalid float literal" | "cannot parse float from empty string" => "must be a number",
        "provided string was not `true` or `false`" => "must be true or false",
        _ => return None,
    };
    Some(known)
}

/// A type of the server's in words of JSON.
fn of_type(expected: &str) -> &str {
    let first = expected.split([' ', '<']).next().unwrap_or_default();
    match first {
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" | "u8" | "u16" | "u32" | "u64" | "u128"
        | "usize" | "integer" => "an integer",
        "f32" | "f64" => "a number",
        "bool" => "true or false",
        "struct" | "map" => "an object",
        "tuple" | "sequence" => "a list",
        "enum" | "variant" | "string" | "str" | "char" | "character" | "identifier" | "bytes" => {
            "a string"
        }
        "unit" | "null" => "null",
        "option" | "Option" => "a value or null",
        _ => match expected {
            "a map" | "any map" => "an object",
            "a sequence" => "a list",
            "a boolean" => "true or false",
            "a borrowed string" | "a string" | "string or map" => "a string",
            other if other.starts_with("struct ") || other.contains("::") => "an object",
            other => other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> (String, String) {
        let Mistake { field, message } = mistake("body", path, text);
        (field, message)
    }

    #[test]
    fn no_type_of_the_servers_goes_out() {
        let cases = [
            ("invalid type: string \"x\", expected i64", "must be an integer"),
            ("invalid type: null, expected struct LoginRequest", "must be an object"),
            ("invalid type: map, expected a string", "must be a string"),
            ("invalid type: map, expected a sequence", "must be a list"),
            ("invalid type: integer `1`, expected a boolean", "must be true or false"),
            ("invalid type: integer `3`, expected string or map", "must be a string"),
            ("invalid value: integer `-1`, expected u8", "must be an integer within its range"),
            ("unknown variant `x`, expected `paid` or `free`", "must be paid or free"),
            ("unknown variant `x`, expected one of `a`, `b`, `c`", "must be one of a, b, c"),
            ("invalid digit found in string", "must be an integer"),
            ("must have 1 to 3 characters at line 1 column 9", "must have 1 to 3 characters"),
        ];
        for (text, message) in cases {
            assert_eq!(said("a.b", text), ("a.b".to_owned(), message.to_owned()), "{text}");
        }
    }

    #[test]
    fn the_field_is_the_one_that_is_missing() {
        let text = "missing field `amount` at line 1 column 2";
        assert_eq!(said(".", text).0, "amount");
        assert_eq!(said("calls[1]", text).0, "calls[1].amount");
        let text = "invalid type: sequence, expected struct X with 2 elements";
        assert_eq!(said(".", text), ("body".to_owned(), "must be an object".to_owned()));
    }
}
