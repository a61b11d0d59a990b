//! Signed news: `t=TIME,v1=SIGNATURE` over the time and the body, HMAC-SHA256 (RFC 2104) in
//! hexadecimal, as the Stripe documentation on webhook signatures says. Of several `v1`, as there
//! are while a secret is changed, one that fits is enough; other versions are passed over.
//!
//! Invariant: the time is part of what is signed, and news older or newer than [`TOLERANCE_S`] are
//! refused, so that what was once overheard cannot be told again later.

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER_PERMISSIVE;

use super::provider::NewsError;

/// How far the signature's time may be from the present, in seconds.
pub const TOLERANCE_S: i64 = 300;
/// Bytes of the header.
pub const HEADER_BYTES_MAX: usize = 4_096;
/// How many signatures are tried.
pub const SIGNATURES_MAX: usize = 8;

/// Whether a body was signed with a secret, about now.
pub fn verify(secret: &[u8], body: &[u8], header: &str, now_s: i64) -> Result<(), NewsError> {
    let refused = |why| Err(NewsError::Signature(why));
    if header.len() > HEADER_BYTES_MAX {
        return refused("the signature's header is too long");
    }
    let parts = || header.split(',').filter_map(|part| part.trim().split_once('='));
    let mut times = parts().filter(|(name, _)| *name == "t").map(|(_, time)| time);
    let (Some(time), None) = (times.next(), times.next()) else {
        return refused("the signature names no time, or two");
    };
    let Ok(signed_s) = time.parse::<i64>() else { return refused("the time is no number") };
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signed = [time.as_bytes(), b".", body].concat();
    let signatures = parts().filter(|(name, _)| *name == "v1").take(SIGNATURES_MAX);
    let fits = |(_, signature): (&str, &str)| {
        let tag = HEXLOWER_PERMISSIVE.decode(signature.as_bytes());
        tag.is_ok_and(|tag| hmac::verify(&key, &signed, &tag).is_ok())
    };
    if !signatures.map(fits).fold(false, |any, fits| any | fits) {
        return refused("no signature fits");
    }
    if now_s.saturating_sub(signed_s).saturating_abs() > TOLERANCE_S {
        return refused("the signature is too old, or from the future");
    }
    Ok(())
}

/// The header for a body: for those who play the provider.
pub fn sign(secret: &[u8], body: &[u8], time_s: i64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signed = [time_s.to_string().as_bytes(), b".", body].concat();
    let tag = hmac::sign(&key, &signed);
    format!("t={time_s},v1={}", data_encoding::HEXLOWER.encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_767_225_600;

    #[test]
    fn what_was_signed_about_now_passes_and_nothing_else() {
        let (secret, body) = (b"whsec_one".as_slice(), b"{\"id\": 1}".as_slice());
        let header = sign(secret, body, NOW_S);
        assert_eq!(verify(secret, body, &header, NOW_S + TOLERANCE_S), Ok(()));
        assert_eq!(verify(secret, body, &header, NOW_S - TOLERANCE_S), Ok(()));
        assert!(verify(secret, body, &header, NOW_S + TOLERANCE_S + 1).is_err());
        assert!(verify(secret, body, &header, NOW_S - TOLERANCE_S - 1).is_err());
        assert!(verify(secret, b"{\"id\": 2}", &header, NOW_S).is_err());
        assert!(verify(b"whsec_two", body, &header, NOW_S).is_err());
        let moved = header.replace(&NOW_S.to_string(), &(NOW_S + 400).to_string());
        assert!(verify(secret, body, &moved, NOW_S + 400).is_err(), "the time is signed");
    }

    #[test]
    fn of_several_signatures_one_is_enough_and_a_malformed_header_is_none() {
        let body = b"{}".as_slice();
        let (old, new) = (sign(b"old", body, NOW_S), sign(b"new", body, NOW_S));
        let both = format!("{old},{},v0=00", new.split_once(',').unwrap().1);
        for secret in [b"old".as_slice(), b"new"] {
            assert_eq!(verify(secret, body, &both, NOW_S), Ok(()));
        }
        let twice = format!("{old},t={}", NOW_S + 1);
        for header in ["", "t=1", "v1=00", "t=x,v1=00", "t=1,v1=zz", &twice, &"t=1,".repeat(2_000)]
        {
            assert!(verify(b"old", body, header, NOW_S).is_err(), "{header:.20}");
        }
    }
}
