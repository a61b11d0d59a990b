//! What an app tells a user, as a mail.
//!
//! Invariants
//! - It goes to an address alone whose user has shown that it is theirs, and only while they may
//!   log in to the tenant that it comes from.
//! - What it says is sealed under the user's own key until it is sent.
//! - Words that an app chose stand indented between lines of ours, and never in the subject.

use supervision::{Origin, Refusal, System};
use types::{Personal, TenantId, UserId};
use zeroize::Zeroizing;

use crate::claim::EmailAddress;
use crate::mail::{self, Draft, Letter, PostOffice};
use crate::mail_text::Text;
use crate::service::Identity;
use crate::user::{EMAIL_LABEL, User};

/// The member of a user's settings that asks for notices by mail: `true`.
pub const NOTIFY_BY_MAIL: &str = "notify_by_mail";
/// As what the words of a notice are sealed.
const WORDS: &str = "mail.notice";

impl Identity {
    /// Whether a user wants notices of a tenant's apps by mail.
    pub async fn wants_mail(&self, tenant: TenantId, user: UserId) -> Result<bool, Refusal> {
        let settings = self.user_settings(user, tenant).await?;
        Ok(settings.value()[NOTIFY_BY_MAIL] == true)
    }

    /// Has a notice mailed to a user: `app` is empty when none tells it. The same id is the same
    /// mail. Answers whether there is an address that it may go to.
    pub async fn mail_notice(
        &self,
        (tenant, user): (TenantId, UserId),
        id: u128,
        (app, words): (&str, &str),
        origin: Origin,
    ) -> Result<bool, Refusal> {
        let system = self.system()?;
        let Some(address) = self.user_address(user)? else { return Ok(false) };
        let look = move |it: &User| {
            let profile = it.profile.as_ref()?;
            let is_meant = profile.active && profile.email_verified;
            let is_member = profile.memberships.contains_key(&tenant);
            (is_meant && is_member).then(|| profile.email.clone())
        };
        let found = system.directory::<User>().look(&address, origin.clone(), look).await;
        let Some(email) = crate::unless_erased(found)? else { return Ok(false) };
        let keys = system.journal().keys();
        let to = email.open(keys, EMAIL_LABEL).and_then(|text| EmailAddress::new(&text).ok());
        let Some(to) = to else { return Ok(false) };
        let words = Personal::seal(keys, user, WORDS, words)?;
        let letter = Letter::Notice { app: app.to_owned(), words };
        let draft = Draft { id, user, home: tenant, to, letter };
        match mail::send(&system, draft, origin).await {
            // Sealed anew it looks like another one; it is asked for under its own id alone.
            Err(refusal) if refusal.code == mail::ID_REUSED => Ok(true),
            sent => sent.map(|()| true),
        }
    }
}

/// The words of a notice's mail; `None` once its user was erased.
pub(crate) fn read(
    system: &System,
    office: &PostOffice,
    app: &str,
    words: &Personal,
) -> Option<Text> {
    let words = words.open(system.journal().keys(), WORDS)?;
    Some(text(app, &words, office.public_url()))
}

fn text(app: &str, words: &str, public_url: &str) -> Text {
    let lines: Vec<String> = words.lines().map(|line| format!("  {line}")).collect();
    let who = if app.is_empty() { "The platform".to_owned() } else { format!("The app {app}") };
    let body = format!(
        "{who} tells you:\n\n{}\n\nYou get this because your settings ask for notices by mail; \
         change them where you log in:\n\n{public_url}\n",
        lines.join("\n"),
    );
    Text { subject: "A notice for you".to_owned(), body: Zeroizing::new(body), link: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_app_chose_stands_apart() {
        let text = text("shelf", "Your report\nis ready", "https://example.test");
        assert_eq!(text.subject, "A notice for you");
        assert!(text.body.contains("The app shelf tells you:\n\n  Your report\n  is ready\n\n"));
        assert!(text.link.is_none());
    }
}
