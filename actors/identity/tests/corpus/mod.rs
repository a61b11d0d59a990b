//! The cases of `testdata/token_corpus.json` as tokens: for the verifier by itself, and for a
//! whole server over HTTP. Included by both, so it knows keys only as what they sign.

use aws_lc_rs::hmac;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::Value;

/// What signs.
pub(crate) type Sign<'a> = Box<dyn Fn(&[u8]) -> Vec<u8> + 'a>;

/// The keys that the cases are about.
pub(crate) struct Keys<'a> {
    /// The algorithm of the current key, and the other one that we have.
    pub(crate) algorithms: (&'static str, &'static str),
    /// The name of the current, of the next, of a foreign key.
    pub(crate) kids: [String; 3],
    /// The public part of the current and of the foreign key.
    pub(crate) jwks: [Value; 2],
    /// The current, the next and the foreign key.
    pub(crate) sign: [Sign<'a>; 3],
}

/// The corpus at a time.
pub(crate) struct Corpus {
    /// The file: `payload` has the members of the good token, each as its JSON text.
    pub(crate) document: Value,
    /// The time (s since 1970).
    pub(crate) now_s: u64,
}

impl Corpus {
    /// The corpus of a file's text, at the file's own time.
    pub(crate) fn new(text: &str) -> Self {
        let document: Value = serde_json::from_str(text).unwrap();
        Self { now_s: document["now_s"].as_u64().unwrap(), document }
    }

    /// The cases.
    pub(crate) fn cases(&self) -> &[Value] {
        self.document["cases"].as_array().unwrap()
    }

    /// `$NOW`, `$NOW+10`, `$NOW-10` as numbers.
    fn with_times(&self, text: &str) -> String {
        let mut parts = text.split("$NOW");
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let is_sum = part.starts_with(['+', '-']);
            let rest =
                part[usize::from(is_sum)..].trim_start_matches(|it: char| it.is_ascii_digit());
            let sum = &part[..part.len() - rest.len()];
            let (sum, rest) = if is_sum { (sum, rest) } else { ("0", part) };
            let offset: i64 = sum.parse().unwrap();
            whole.push_str(&format!("{}{rest}", self.now_s.checked_add_signed(offset).unwrap()));
        }
        whole
    }

    /// The text of one part: the good members, changed as the case says.
    fn part(&self, case: &Value, part: &str, keys: &Keys<'_>) -> String {
        let mut members = self.document[part].as_object().unwrap().clone();
        for (name, raw) in case[part].as_object().into_iter().flatten() {
            members.insert(name.clone(), raw.clone());
        }
        let members = members.iter().filter_map(|(name, raw)| {
            raw.as_str().map(|raw| format!("{}:{raw}", Value::from(name.as_str())))
        });
        let tail = case[format!("{part}_tail")].as_str().unwrap_or_default();
        let whole = format!("{{{}{tail}}}", members.collect::<Vec<_>>().join(","));
        let text = case[format!("{part}_text")].as_str().map_or(whole, str::to_owned);
        self.with_times(&text)
            .replace("$ALG", keys.algorithms.0)
            .replace("$OTHER_ALG", keys.algorithms.1)
            .replace("$KID", &keys.kids[0])
            .replace("$UPPER_KID", &keys.kids[0].to_uppercase())
            .replace("$NEXT_KID", &keys.kids[1])
            .replace("$FOREIGN_KID", &keys.kids[2])
            .replace("$JWK", &keys.jwks[0].to_string())
            .replace("$FOREIGN_JWK", &keys.jwks[1].to_string())
    }

    /// A part in base64url, or in the spelling that the case wants it signed in.
    fn spelled(&self, case: &Value, index: u64, text: &str) -> String {
        let respell = (case["respell"][0] == index).then(|| case["respell"][1].as_str().unwrap());
        match respell {
            Some("standard") => {
                let text = text.replacen('{', r#"{"x":">>>>>>>","#, 1);
                BASE64.encode(text.as_bytes()).trim_end_matches('=').to_owned()
            }
            Some(how) => {
                // White space behind the JSON makes room for padding and for further bits.
                let room = (4 - text.len() % 3) % 3;
                respelled(&format!("{text}{}", " ".repeat(room)).into_bytes(), how)
            }
            None => BASE64URL_NOPAD.encode(text.as_bytes()),
        }
    }

    /// The token of a case.
    pub(crate) fn token(&self, case: &Value, keys: &Keys<'_>) -> String {
        let part = |index, name| self.spelled(case, index, &self.part(case, name, keys));
        let message = format!("{}.{}", part(0, "header"), part(1, "payload"));
        let name = case["signature"].as_str().unwrap_or("own");
        if name == "absent" {
            return message;
        }
        let signature = signature(name, &message, keys);
        let spelled = match case["respell"][0] == 2 {
            true => respelled(&signature, case["respell"][1].as_str().unwrap()),
            false => BASE64URL_NOPAD.encode(&signature),
        };
        self.damaged(case, &format!("{message}.{spelled}"))
    }

    /// The token as the case leaves it.
    fn damaged(&self, case: &Value, token: &str) -> String {
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        let at = |value: &Value| value[0].as_u64().map(|index| index as usize);
        if let Some(index) = at(&case["cut_part"]) {
            let keep = case["cut_part"][1].as_i64().unwrap();
            let length = parts[index].len() as i64;
            parts[index].truncate(if keep < 0 { length + keep } else { keep } as usize);
        }
        if let Some(index) = at(&case["insert"]) {
            parts[index].insert_str(8, case["insert"][1].as_str().unwrap());
        }
        if let Some(index) = at(&case["insert_end"]) {
            parts[index].push_str(case["insert_end"][1].as_str().unwrap());
        }
        let length = |name: &str| case[name].as_u64().map(|length| length as usize);
        parts.truncate(length("parts").unwrap_or(3));
        let mut token = parts.join(".");
        token.truncate(token.len() - length("cut_end").unwrap_or(0));
        token.truncate(length("cut_to").unwrap_or(usize::MAX));
        let suffix = case["suffix"].as_str().unwrap_or_default();
        let suffix = suffix.repeat(length("suffix_count").unwrap_or(1));
        format!("{}{token}{suffix}", case["prefix"].as_str().unwrap_or_default())
    }
}

/// Bytes as base64url with padding, or with bits behind the last byte (RFC 4648, section 3.5).
fn respelled(bytes: &[u8], how: &str) -> String {
    let mut text = BASE64URL_NOPAD.encode(bytes);
    assert_ne!(text.len() % 4, 0, "there is no room behind the last byte");
    if how == "padded" {
        return text.clone() + &"=".repeat(4 - text.len() % 4);
    }
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = text.pop().unwrap();
    let place = alphabet.iter().position(|letter| char::from(*letter) == last).unwrap();
    text.push(char::from(alphabet[place | 1]));
    assert!(BASE64URL_NOPAD.decode(text.as_bytes()).is_err());
    text
}

fn signature(name: &str, message: &str, keys: &Keys<'_>) -> Vec<u8> {
    let [own, next, foreign] = &keys.sign;
    let jwk = &keys.jwks[0];
    let hs256 = |secret: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
    };
    match name {
        "own" => own(message.as_bytes()),
        "of_another" => own(b"another.message"),
        "foreign" => foreign(message.as_bytes()),
        "next" => next(message.as_bytes()),
        "hs256_nothing" => hs256(b""),
        "hs256_kid" => hs256(keys.kids[0].as_bytes()),
        "hs256_jwk" => hs256(jwk.to_string().as_bytes()),
        "hs256_key" => hs256(&member(jwk, "n").or(member(jwk, "x")).unwrap()),
        "hs256_der" => hs256(&public_der(jwk)),
        "hs256_pem" => hs256(public_pem(jwk).as_bytes()),
        "hs256_pem_cut" => hs256(public_pem(jwk).trim_end().as_bytes()),
        "zeros" => vec![0; own(b"").len()],
        "empty" => Vec::new(),
        other => panic!("{other}"),
    }
}

fn member(jwk: &Value, name: &str) -> Option<Vec<u8>> {
    Some(BASE64URL_NOPAD.decode(jwk[name].as_str()?.as_bytes()).unwrap())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..128 => vec![tag, length as u8],
        128..256 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content.to_vec()].concat()
}

/// A public key as X.509's SubjectPublicKeyInfo (RFC 5280, section 4.1; RFC 8410; RFC 8017).
fn public_der(jwk: &Value) -> Vec<u8> {
    let (algorithm, key) = match member(jwk, "x") {
        Some(key) => (vec![0x06, 0x03, 0x2b, 0x65, 0x70], key),
        None => {
            // A modulus begins with a one bit: as an integer it needs a zero before it.
            let modulus = der(0x02, &[vec![0], member(jwk, "n").unwrap()].concat());
            let exponent = der(0x02, &member(jwk, "e").unwrap());
            let rsa = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0];
            (rsa.to_vec(), der(0x30, &[modulus, exponent].concat()))
        }
    };
    let key = der(0x03, &[vec![0], key].concat());
    der(0x30, &[der(0x30, &algorithm), key].concat())
}

fn public_pem(jwk: &Value) -> String {
    let text = BASE64.encode(&public_der(jwk));
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}
