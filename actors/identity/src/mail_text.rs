//! What mails say: every template is here. Plain text, short, in English.
//!
//! Invariants
//! - A subject and what surrounds a name are fixed; a name that somebody chose stands on one line
//!   of the body, cut to [`NAME_CHARS_MAX`], with nothing in it that a mail reader would obey.
//! - A link stands alone on its line.

use zeroize::Zeroizing;

use crate::mail::Letter;
use crate::mail_link::{LINK_MS, LinkKey, Purpose};

/// The longest name of a tenant or role that a mail repeats, in characters.
const NAME_CHARS_MAX: usize = 100;
const HOUR_MS: i64 = 60 * 60 * 1_000;

/// A mail's words.
pub(crate) struct Text {
    /// One line.
    pub(crate) subject: String,
    /// The body.
    pub(crate) body: Zeroizing<String>,
    /// The link in it.
    pub(crate) link: Option<Zeroizing<String>>,
}

/// The words of a letter, with its link if it has one.
pub(crate) fn text(letter: &Letter, public_url: &str, keys: &LinkKey) -> Text {
    let link = |purpose: Purpose, id| {
        let token = keys.token(purpose, id);
        Zeroizing::new(format!("{public_url}{}?token={}", purpose.page(), token.as_str()))
    };
    let hours = LINK_MS / HOUR_MS;
    let ignore = "If you did not ask for this, do nothing: nothing will happen.";
    let (subject, body, link) = match letter {
        Letter::VerifyEmail { link: id } => {
            let link = link(Purpose::VerifyEmail, *id);
            let body = format!(
                "Somebody signed up with this address. If it was you, open this page within \
                 {hours} hours to show that the address is yours:\n\n{}\n\n{ignore}\n",
                link.as_str(),
            );
            ("Confirm your e-mail address".to_owned(), body, Some(link))
        }
        Letter::ResetPassword { link: id } => {
            let link = link(Purpose::ResetPassword, *id);
            let body = format!(
                "Somebody asked for a new password for your account. If it was you, open this \
                 page within {hours} hours and choose one. It works once:\n\n{}\n\n{ignore}\n",
                link.as_str(),
            );
            ("Choose a new password".to_owned(), body, Some(link))
        }
        Letter::AlreadyRegistered {} => {
            let body = format!(
                "Somebody signed up with this address, which has an account already. If it was \
                 you, log in with your password, or ask for a new one here:\n\n\
                 {public_url}{}\n\n{ignore}\n",
                Purpose::ResetPassword.page(),
            );
            ("You already have an account".to_owned(), body, None)
        }
        Letter::PasswordChanged {} => {
            let body = format!(
                "The password of your account was changed, and every other login was ended.\n\n\
                 If it was not you, ask for a new password at once:\n\n{public_url}{}\n",
                Purpose::ResetPassword.page(),
            );
            ("Your password was changed".to_owned(), body, None)
        }
        Letter::Invitation { invitation, tenant_name, role } => {
            let link = link(Purpose::Invitation, *invitation);
            let (name, role) = (one_line(tenant_name), one_line(role));
            let body = format!(
                "You were invited to join\n\n  {name}\n\nas {role}. Open this page to accept:\
                 \n\n{}\n\n{ignore}\n",
                link.as_str(),
            );
            ("You were invited".to_owned(), body, Some(link))
        }
        other => return of_an_account(other, public_url, keys),
    };
    Text { subject, body: Zeroizing::new(body), link }
}

/// The letters about what somebody else does to an account.
fn of_an_account(letter: &Letter, public_url: &str, keys: &LinkKey) -> Text {
    let page = Purpose::ResetPassword.page();
    let (subject, body, link) = match letter {
        Letter::FactorRemovalAsked {} => {
            let body = format!(
                "Somebody logged in to your account with your password and without a second \
                 factor, and asks the owner of the tenant to remove your second factors.\n\n\
                 If it was not you, choose a new password at once; that ends the request:\n\n\
                 {public_url}{page}\n"
            );
            ("Your second factors are to be removed", body, None)
        }
        Letter::AccountMade { link: id, tenant_name, role } => {
            let token = keys.token(Purpose::ResetPassword, *id);
            let link = Zeroizing::new(format!("{public_url}{page}?token={}", token.as_str()));
            let (name, role) = (one_line(tenant_name), one_line(role));
            let body = format!(
                "An account was made for this address at\n\n  {name}\n\nas {role}. Open this \
                 page within {} hours to choose a password. It works once:\n\n{}\n\nLater \
                 you can ask for another link on the same page. If you want no account, do \
                 nothing: nobody can log in to it.\n",
                LINK_MS / HOUR_MS,
                link.as_str(),
            );
            ("An account was made for you", body, Some(link))
        }
        _ => {
            let body = format!(
                "All second factors of your account were removed, as was asked for, and every \
                 login was ended. Enrol new ones after you have logged in.\n\n\
                 If you have not asked for it, choose a new password at once:\n\n\
                 {public_url}{page}\n"
            );
            ("Your second factors were removed", body, None)
        }
    };
    Text { subject: subject.to_owned(), body: Zeroizing::new(body), link }
}

/// A name that somebody chose, harmless.
fn one_line(name: &str) -> String {
    let is_hidden = |letter: char| {
        // Control characters, and those that turn the reading direction around.
        letter.is_control()
            || matches!(letter, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}')
    };
    name.chars()
        .map(|letter| if is_hidden(letter) { ' ' } else { letter })
        .take(NAME_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use persistence::MasterKey;

    use super::*;
    use crate::claim::ClaimKey;

    fn keys() -> LinkKey {
        LinkKey::of(&ClaimKey::of(&MasterKey::from_bytes([1; 32])).unwrap())
    }

    #[test]
    fn a_link_stands_alone_and_reads_back() {
        let letters = [
            (Letter::VerifyEmail { link: 5 }, Purpose::VerifyEmail),
            (Letter::ResetPassword { link: 5 }, Purpose::ResetPassword),
        ];
        for (letter, purpose) in letters {
            let text = text(&letter, "https://example.test", &keys());
            let link = text.link.unwrap();
            assert!(text.body.lines().any(|line| line == link.as_str()), "{}", text.body.as_str());
            let (page, token) = link.split_once("?token=").unwrap();
            assert_eq!(page, format!("https://example.test{}", purpose.page()));
            assert_eq!(keys().read(purpose, token), Some(5));
        }
    }

    #[test]
    fn a_chosen_name_cannot_add_lines() {
        let tenant_name = format!("Acme\r\nBcc: all\u{202e}{}", "x".repeat(500));
        let letter = Letter::Invitation { invitation: 1, tenant_name, role: "a\nb".to_owned() };
        let text = text(&letter, "https://example.test", &keys());
        assert!(text.body.contains("  Acme  Bcc: all xxx"), "{}", text.body.as_str());
        assert!(text.body.contains("as a b."));
        assert!(text.body.lines().all(|line| line.len() < 250));
        assert!(!text.subject.contains("Acme"));
    }
}
