//! One text for each JSON value: the JSON Canonicalization Scheme (RFC 8785), which digests are
//! over. Members are sorted by their names' UTF-16 code units, strings escape only what they must,
//! and numbers are written as ECMAScript writes them.
//!
//! Deliberate departure: an integer beyond 2^53 is written with all its digits, and not as the
//! double nearest to it. The RFC leaves such numbers out (section 3.2.2.3, by way of I-JSON); were
//! they rounded, two calls with other arguments would have one digest.

use serde_json::{Number, Value};

/// The integers that a double holds exactly reach so far.
const EXACT_MAX: u64 = 1 << 53;

/// The canonical text of a value.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_value(value, &mut text);
    text
}

fn write_value(value: &Value, text: &mut String) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(number) => write_number(number, text),
        Value::String(string) => write_string(string, text),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_value(item, text);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            text.push('{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_string(name, text);
                text.push(':');
                write_value(member, text);
            }
            text.push('}');
        }
    }
}

fn write_string(string: &str, text: &mut String) {
    text.push('"');
    for character in string.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\u{c}' => text.push_str("\\f"),
            '\r' => text.push_str("\\r"),
            control if control < ' ' => text.push_str(&format!("\\u{:04x}", control as u32)),
            other => text.push(other),
        }
    }
    text.push('"');
}

fn write_number(number: &Number, text: &mut String) {
    let is_large = number.as_u64().is_some_and(|it| it > EXACT_MAX)
        || number.as_i64().is_some_and(|it| it.unsigned_abs() > EXACT_MAX);
    match number.as_f64() {
        Some(double) if !is_large => write_double(double, text),
        _ => text.push_str(&number.to_string()),
    }
}

/// `Number::toString` (ECMA-262, section 6.1.6.1.20) of a finite double.
fn write_double(double: f64, text: &mut String) {
    if double == 0.0 {
        text.push('0');
        return;
    }
    if double < 0.0 {
        text.push('-');
    }
    // The shortest digits that read back as this double; of two as near, the even one.
    let shortest = Number::from_f64(double.abs()).map(|it| it.to_string()).unwrap_or_default();
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0');
    let leading = all.len() - digits.len();
    let digits = digits.trim_end_matches('0');
    let length = |text: usize| i32::try_from(text).unwrap_or(i32::MAX);
    let count = length(digits.len());
    // Where the point stands, counted from the first digit.
    let exponent = exponent.parse::<i32>().unwrap_or_default();
    let point = length(whole.len()) + exponent - length(leading);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or_default());
    let split = digits.split_at_checked(usize::try_from(point).unwrap_or_default());
    match (point, split) {
        (_, _) if (count..=21).contains(&point) => {
            text.push_str(digits);
            text.push_str(&zeros(point - count));
        }
        (1..=21, Some((whole, fraction))) => text.extend([whole, ".", fraction]),
        (-5..=0, _) => text.extend(["0.", &zeros(-point), digits]),
        _ => {
            let (first, rest) = digits.split_at(1);
            let dot = if rest.is_empty() { "" } else { "." };
            text.extend([first, dot, rest, &format!("e{:+}", point - 1)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// RFC 8785, appendix B, as the bits of the doubles.
    #[test]
    fn numbers_are_written_as_the_samples_of_the_rfc_are() {
        let samples = [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ];
        for (bits, wanted) in samples {
            let mut text = String::new();
            write_double(f64::from_bits(bits), &mut text);
            assert_eq!(text, wanted, "{bits:#x}");
            assert_eq!(text.parse::<f64>().unwrap(), f64::from_bits(bits), "{text}");
        }
    }

    #[test]
    fn a_value_has_one_text_however_it_was_written() {
        // The sample of RFC 8785, section 3.2.2 and what it becomes by 3.2.4.
        let text = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
            "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let wanted = concat!(
            r#"{"literals":[null,true,false],"#,
            r#""numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
            r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#
        );
        let mut value: Value = serde_json::from_str(text).unwrap();
        // How exactly a text is read is the reader's business.
        value["numbers"][0] = json!("333333333.33333329".parse::<f64>().unwrap());
        assert_eq!(canonical(&value), wanted);
        // Section 3.2.3: by UTF-16 code units, not by code points.
        let names = json!({"\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5,
            "\u{80}": 6, "\u{f6}": 7});
        let text = canonical(&names);
        let order: String = text.split(':').skip(1).filter_map(|it| it.chars().next()).collect();
        assert_eq!(order, "2467153", "{text}");
    }

    #[test]
    fn large_integers_are_told_apart() {
        assert_eq!(canonical(&json!(u64::MAX)), u64::MAX.to_string());
        assert_eq!(canonical(&json!(i64::MIN)), i64::MIN.to_string());
        let (one, other) = (json!(EXACT_MAX + 1), json!(EXACT_MAX + 2));
        assert_ne!(canonical(&one), canonical(&other));
        assert_eq!(canonical(&json!(7)), canonical(&json!(7.0)));
    }

    proptest! {
        #[test]
        fn what_was_written_reads_back_as_the_same_double(bits: u64) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            let mut text = String::new();
            write_double(double, &mut text);
            prop_assert_eq!(text.parse::<f64>().unwrap(), double);
        }

        #[test]
        fn the_order_of_members_says_nothing(names in proptest::collection::vec(".*", 0..6)) {
            let members = |names: &mut dyn Iterator<Item = &String>| -> Value {
                Value::Object(names.map(|name| (name.clone(), json!(name.len()))).collect())
            };
            let (there, back) = (members(&mut names.iter()), members(&mut names.iter().rev()));
            prop_assert_eq!(canonical(&there), canonical(&back));
        }
    }
}
