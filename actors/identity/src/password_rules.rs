//! Which passwords somebody may choose: long enough, and not among the first that are tried.
//!
//! NIST SP 800-63B-4, section 3.1.1.2: no rules about kinds of characters, no expiry, but a list of
//! passwords that are commonly used, expected or compromised, and of words about the user and the
//! service. The list is that of `zxcvbn` (30,000 leaked passwords by frequency, with common words
//! and names), which also counts a change of case, digits for letters, rows of the keyboard,
//! repetitions and dates, and estimates after how many guesses a password is found.
//!
//! Invariants
//! - What is refused would be found within [`GUESSES_MIN`] guesses. Anything else is accepted.
//! - It is the password that is measured, never stored or logged; no network is asked.
//!
//! Deliberate limits
//! - The first 100 characters are measured, which is far beyond what is ever refused.
//! - A password that was accepted once is not measured again at login.

use zxcvbn::zxcvbn;

use crate::password::{Password, PasswordError};

/// Below this many guesses a password is refused: 10,000 logins by a hundred addresses.
pub const GUESSES_MIN: u64 = 1_000_000;
/// The shortest word about the user that counts, in characters; shorter ones are in everything.
const OWN_CHARS_MIN: usize = 3;
/// The most words about the user that are looked at.
const OWN_WORDS_MAX: usize = 32;
/// What the service is called.
const SERVICE: &str = "bailiwick";

/// Whether a password may be chosen by somebody about whom these are words: an e-mail address, a
/// name, a company.
pub fn check(password: &Password, own: &[String]) -> Result<(), PasswordError> {
    let text = password.expose();
    if zxcvbn(text, &[]).guesses() < GUESSES_MIN {
        return Err(PasswordError::Common);
    }
    let words = own_words(own);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match zxcvbn(text, &words).guesses() < GUESSES_MIN {
        true => Err(PasswordError::Personal),
        false => Ok(()),
    }
}

/// The texts themselves, and the words in them.
fn own_words(own: &[String]) -> Vec<String> {
    let mut words = vec![SERVICE.to_owned()];
    for text in own {
        let text = text.to_lowercase();
        let parts = text.split(|letter: char| !letter.is_alphanumeric()).map(str::to_owned);
        let labels = text.split(['@', '.', ' ']).map(str::to_owned);
        let labels: Vec<String> = labels.collect();
        let local = text.split('@').next().unwrap_or_default().to_owned();
        // As it would be written in a password: without what is between.
        let joined = text.split_whitespace().collect::<String>();
        let parts: Vec<String> = parts.collect();
        words.extend([text, local, joined].into_iter().chain(labels).chain(parts));
    }
    words.retain(|word| word.chars().count() >= OWN_CHARS_MIN);
    words.truncate(OWN_WORDS_MAX);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str, own: &[&str]) -> Result<(), PasswordError> {
        let own: Vec<String> = own.iter().map(|word| (*word).to_owned()).collect();
        check(&Password::new(text.to_owned()).unwrap(), &own)
    }

    #[test]
    fn what_everybody_tries_first_is_refused() {
        for common in [
            "password",
            "12345678",
            "Passw0rd",
            "qwertyuiop",
            "iloveyou",
            "letmein1",
            "aaaaaaaa",
            "abcdefgh",
            "sunshine",
            "football1",
            "P@ssword1",
            "trustno1",
            "drowssap",
            "password123",
        ] {
            assert_eq!(verdict(common, &[]), Err(PasswordError::Common), "{common}");
        }
    }

    #[test]
    fn long_or_random_ones_are_accepted_whatever_their_characters() {
        for fine in [
            "correct horse battery staple",
            "a-long-enough-password",
            "vk3xq9ZtLw",
            "öäüß-größe-7",
            "only lower case letters here",
            "6391 2047 5518",
            &"kV7-qd_Z ".repeat(14)[..126],
        ] {
            assert_eq!(verdict(fine, &[]), Ok(()), "{fine}");
        }
    }

    #[test]
    fn ones_own_address_name_and_company_make_no_password() {
        let own = ["ada.kovalevska@initech-labs.example", "Ada Kovalevska", "Initech Labs"];
        for personal in [
            "kovalevska",
            "Kovalevska1",
            "ada.kovalevska",
            "initech-labs",
            "InitechLabs",
            "adakovalevska",
            "ada.kovalevska@initech-labs.example",
        ] {
            assert_eq!(verdict(personal, &own), Err(PasswordError::Personal), "{personal}");
            assert_ne!(verdict(personal, &[]), Err(PasswordError::Personal));
        }
        assert!(verdict("Bailiwick1", &[]).is_err(), "nor does what the service is called");
        assert_eq!(verdict("kovalevska rides seven zebras", &own), Ok(()));
    }

    #[test]
    fn words_about_the_user_are_bounded() {
        let long: Vec<String> = vec!["many words ".repeat(10_000)];
        assert_eq!(own_words(&long).len(), OWN_WORDS_MAX);
    }
}
