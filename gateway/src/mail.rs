//! How mails leave: to a mail server by SMTP, or, without one, into a folder as files.
//!
//! Both write the same message (RFC 5322): plain text, a `Message-ID` made of the mail's id, so
//! that a repetition has the same one, and `Auto-Submitted` (RFC 3834), so that nothing answers it.
//! A failure is told in our own words and with the server's code: what the server wrote may name
//! the recipient.
//!
//! Invariants
//! - A hanging server costs [`SMTP_TOGETHER_MAX`] connections and the timeout each, nothing else.
//! - A file appears in the outbox whole or not at all, readable by its owner only: it holds links.
//!
//! Deliberate limits
//! - No DKIM and no bounces: those are the mail server's. Nothing but an erasure deletes files
//!   from the outbox.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use identity::claim::EmailAddress;
use identity::mail::{MailFailure, Mailer, Message, PostOffice, Recipients};
use lettre::address::AddressError;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, Message as Letter};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::{Error as SmtpError, PoolConfig};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use serde::Deserialize;
use tokio::sync::Semaphore;
use types::base32;

use crate::config::ServeArgs;

/// How many messages are handed to the mail server at once.
pub const SMTP_TOGETHER_MAX: usize = 4;
/// How long a connection is kept for the next message.
const SMTP_IDLE: Duration = Duration::from_secs(30);
/// The folder in the data folder that mails are written to without a mail server.
pub const OUTBOX: &str = "outbox";
/// The longest line of a message, in bytes (RFC 5322, section 2.1.1).
const LINE_BYTES_MAX: usize = 998;
/// What is said of a mail server that hangs.
const TOO_LATE: &str = "the mail server did not answer in time";
/// Who mails are from when nothing is said about it, which no mail server would take.
const FROM_DEFAULT: &str = "Bailiwick <bailiwick@localhost.localdomain>";

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTls {
    /// By STARTTLS (RFC 3207), which the mail server must offer: port 587.
    #[default]
    Starttls,
    /// From the first byte (RFC 8314): port 465.
    Tls,
    /// Not: for a mail server on the same machine, port 25.
    None,
}

/// Why mail cannot be sent as the settings say.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// Who mails are from is not said, or is no address.
    #[error("BAILIWICK_MAIL_FROM must be an address as in `Name <name@example.com>`: {0}")]
    From(String),
    /// The mail server's name cannot be used.
    #[error("the mail server {host} cannot be used: {source}")]
    Server {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: SmtpError,
    },
    /// Links would begin with this.
    #[error("BAILIWICK_PUBLIC_URL must begin with http:// or https:// and name a host: {0}")]
    PublicUrl(String),
}

/// Where mails leave, by the settings. `listens` is what links begin with when nothing is said.
pub fn post_office(args: &ServeArgs, listens: &str) -> Result<Arc<PostOffice>, MailError> {
    let public_url = args.public_url.clone().unwrap_or_else(|| listens.to_owned());
    check_public_url(&public_url)?;
    let writer = Writer::new(args.mail_from.as_deref(), args.smtp_host.is_some(), args.dev)?;
    let mailer: Arc<dyn Mailer> = match &args.smtp_host {
        Some(host) => Arc::new(Smtp::new(args, host, writer)?),
        None => Arc::new(Outbox { folder: args.data_dir.join(OUTBOX), writer }),
    };
    Ok(PostOffice::new(mailer, &public_url))
}

fn check_public_url(url: &str) -> Result<(), MailError> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let is_plain = |rest: &&str| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && rest.chars().all(|it| it.is_ascii_graphic() && !matches!(it, '?' | '#' | '<' | '>'))
    };
    rest.filter(is_plain).map(drop).ok_or_else(|| MailError::PublicUrl(url.to_owned()))
}

/// Writes messages out.
struct Writer {
    from: Mailbox,
    tells_links: bool,
}

impl Writer {
    fn new(from: Option<&str>, is_needed: bool, tells_links: bool) -> Result<Self, MailError> {
        let text = match from {
            None if is_needed => return Err(MailError::From("it is not set".to_owned())),
            from => from.unwrap_or(FROM_DEFAULT),
        };
        let wrong = |error: AddressError| MailError::From(format!("{text}: {error}"));
        Ok(Self { from: text.parse().map_err(wrong)?, tells_links })
    }

    fn letter(&self, message: &Message) -> Result<Letter, MailFailure> {
        let unfit = || MailFailure {
            reason: "the recipient's address cannot be written in a mail".to_owned(),
            is_refusal: true,
        };
        let id = format!("<{}@{}>", base32(message.id), self.from.email.domain());
        let at = UNIX_EPOCH + Duration::from_millis(message.at.0.max(0) as u64);
        let submitted = HeaderName::new_from_ascii_str("Auto-Submitted");
        let letter = Letter::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, message.to.as_str().parse().map_err(|_| unfit())?))
            .subject(message.subject.clone())
            .message_id(Some(id))
            .date(at)
            .raw_header(HeaderValue::new(submitted, "auto-generated".to_owned()))
            .header(ContentType::TEXT_PLAIN)
            .body(body(message.body.to_string()));
        if let Some(link) = message.link.as_ref().filter(|_| self.tells_links) {
            tracing::info!(link = link.as_str(), "for development: the link in a mail");
        }
        letter.map_err(|_| unfit())
    }
}

/// Plain ASCII as it stands, so that a link is whole in a file too; the library would fold lines
/// of 76 characters and more.
fn body(text: String) -> Body {
    let is_plain = |line: &str| {
        let seen = line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        seen && line.len() <= LINE_BYTES_MAX
    };
    match text.lines().all(is_plain) {
        true => {
            let bytes = text.replace('\n', "\r\n").into_bytes();
            Body::dangerous_pre_encoded(bytes, ContentTransferEncoding::SevenBit)
        }
        false => Body::new(text),
    }
}

/// A mail server.
struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    writer: Writer,
    places: Semaphore,
    /// The library's own counts each answer, and not while a connection begins.
    limit: Duration,
    name: String,
}

impl Smtp {
    fn new(args: &ServeArgs, host: &str, writer: Writer) -> Result<Self, MailError> {
        let (tls, port) = match args.smtp_tls {
            SmtpTls::None => (Tls::None, 25),
            kind => {
                let wrong = |source| MailError::Server { host: host.to_owned(), source };
                let parameters = TlsParameters::new(host.to_owned()).map_err(wrong)?;
                match kind {
                    SmtpTls::Tls => (Tls::Wrapper(parameters), 465),
                    _ => (Tls::Required(parameters), 587),
                }
            }
        };
        let port = args.smtp_port.unwrap_or(port);
        let limit = Duration::from_secs(args.smtp_timeout_s);
        let pool = PoolConfig::new().max_size(SMTP_TOGETHER_MAX as u32).idle_timeout(SMTP_IDLE);
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(port)
            .tls(tls)
            .timeout(Some(limit))
            .pool_config(pool);
        if let (Some(user), Some(password)) = (&args.smtp_user, &args.smtp_password) {
            builder = builder.credentials(Credentials::new(user.clone(), password.0.clone()));
        }
        let (places, name) = (Semaphore::new(SMTP_TOGETHER_MAX), format!("smtp {host}:{port}"));
        Ok(Self { transport: builder.build(), writer, places, limit, name })
    }
}

impl Mailer for Smtp {
    fn deliver(&self, message: Message) -> BoxFuture<'_, Result<(), MailFailure>> {
        async move {
            let letter = self.writer.letter(&message)?;
            // It is never closed.
            let _place = self.places.acquire().await;
            match tokio::time::timeout(self.limit, self.transport.send(letter)).await {
                Ok(sent) => sent.map(drop).map_err(|error| failure(&error)),
                Err(_) => Err(MailFailure { reason: TOO_LATE.to_owned(), is_refusal: false }),
            }
        }
        .boxed()
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// What went wrong, without a word of the server's.
fn failure(error: &SmtpError) -> MailFailure {
    let mut is_refusal = false;
    let reason = if let Some(code) = error.status() {
        let code = code.to_string();
        // About this recipient or this message; others are about us, and settings may change.
        is_refusal = ["550", "551", "552", "553", "554", "556"].contains(&code.as_str());
        format!("the mail server answered {code}")
    } else if error.is_timeout() {
        TOO_LATE.to_owned()
    } else if error.is_tls() {
        "there is no TLS with the mail server".to_owned()
    } else if error.is_client() {
        "the mail server lacks what the settings ask for".to_owned()
    } else {
        format!("the mail server is not reached: {}", input_output(error))
    };
    MailFailure { reason, is_refusal }
}

fn input_output(error: &SmtpError) -> String {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return error.kind().to_string();
        }
        source = cause.source();
    }
    "the connection failed".to_owned()
}

/// A folder in place of a mail server.
struct Outbox {
    folder: PathBuf,
    writer: Writer,
}

impl Mailer for Outbox {
    fn deliver(&self, message: Message) -> BoxFuture<'_, Result<(), MailFailure>> {
        async move {
            let bytes = self.writer.letter(&message)?.formatted();
            let (folder, name) = (self.folder.clone(), base32(message.id));
            let written = move || write_whole(&folder, &name, &bytes);
            let failed = |reason: String| MailFailure { reason, is_refusal: false };
            match tokio::task::spawn_blocking(written).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    Err(failed(format!("the outbox is not written: {}", error.kind())))
                }
                Err(_) => Err(failed("a background thread ended".to_owned())),
            }
        }
        .boxed()
    }

    fn name(&self) -> String {
        format!("outbox {}", self.folder.display())
    }

    fn forget(&self, recipients: Recipients) -> BoxFuture<'_, Result<usize, MailFailure>> {
        let folder = self.folder.clone();
        let deleted = tokio::task::spawn_blocking(move || delete_to(&folder, &recipients));
        let failed = |reason: String| MailFailure { reason, is_refusal: false };
        let failed = move |outcome| match outcome {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(error)) => {
                let error: std::io::Error = error;
                Err(failed(format!("the outbox is not cleared: {}", error.kind())))
            }
            Err(_) => Err(failed("a background thread ended".to_owned())),
        };
        deleted.map(failed).boxed()
    }
}

fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let (part, whole) = (folder.join(format!("{name}.part")), folder.join(format!("{name}.eml")));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, &whole)?;
    std::fs::File::open(folder)?.sync_all()
}

/// Deletes the messages to these recipients, whole or in part; durable when it returns.
fn delete_to(folder: &Path, recipients: &Recipients) -> std::io::Result<usize> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut deleted = 0;
    for entry in entries {
        let path = entry?.path();
        // One that was renamed or deleted meanwhile is looked at under its other name, or is gone.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let to = text
            .lines()
            .take_while(|line| !line.is_empty())
            .find_map(|line| line.strip_prefix("To: ").map(|to| to.trim_matches(['<', '>', ' '])));
        let address = to.and_then(|to| EmailAddress::new(to).ok());
        if address.is_some_and(|address| recipients(&address)) {
            std::fs::remove_file(&path)?;
            deleted += 1;
        }
    }
    if deleted > 0 {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use supervision::Timestamp;

    use super::*;

    const LINK: &str = "https://example.test/verify-email?token=";

    fn message(to: &str) -> Message {
        Message {
            id: 7,
            to: EmailAddress::new(to).unwrap(),
            subject: "Confirm your e-mail address".to_owned(),
            body: format!("Open this:\n\n{LINK}{}\n", "x".repeat(64)).into(),
            link: None,
            at: Timestamp(1_767_225_600_000),
        }
    }

    fn writer() -> Writer {
        Writer::new(Some("Post <post@example.test>"), true, false).unwrap()
    }

    fn smtp(port: u16) -> Smtp {
        let args = ServeArgs {
            smtp_tls: SmtpTls::None,
            smtp_port: Some(port),
            smtp_timeout_s: 1,
            ..ServeArgs::default()
        };
        Smtp::new(&args, "127.0.0.1", writer()).unwrap()
    }

    #[tokio::test]
    async fn the_outbox_holds_whole_messages_and_a_repetition_is_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox { folder: folder.path().join(OUTBOX), writer: writer() };
        for _ in 0..2 {
            outbox.deliver(message("ada@example.test")).await.unwrap();
        }
        let files: Vec<_> = std::fs::read_dir(&outbox.folder).unwrap().collect();
        assert_eq!(files.len(), 1);
        let text = std::fs::read_to_string(files[0].as_ref().unwrap().path()).unwrap();
        for line in [
            "From: Post <post@example.test>",
            "To: ada@example.test",
            "Message-ID: <00000000000000000000000007@example.test>",
            "Date: Thu, 01 Jan 2026 00:00:00 +0000",
            "Auto-Submitted: auto-generated",
            "Content-Transfer-Encoding: 7bit",
            &format!("{LINK}{}", "x".repeat(64)),
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }

    #[tokio::test]
    async fn what_the_outbox_holds_for_somebody_is_forgotten_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox { folder: folder.path().join(OUTBOX), writer: writer() };
        let is_ada = |it: &EmailAddress| it.as_str() == "ada@example.test";
        let forget = || outbox.forget(Arc::new(is_ada));
        assert_eq!(forget().await, Ok(0), "there is no folder yet");
        outbox.deliver(message("ada@example.test")).await.unwrap();
        outbox.deliver(Message { id: 8, ..message("bob@example.test") }).await.unwrap();
        std::fs::write(outbox.folder.join("9.part"), "To: ada@example.test\r\n\r\nhal").unwrap();
        // What a mail says is not whom it is to.
        let to_bob = "To: bob@example.test\r\n\r\nTo: ada@example.test";
        std::fs::write(outbox.folder.join("10.eml"), to_bob).unwrap();
        assert_eq!(forget().await, Ok(2));
        assert_eq!(std::fs::read_dir(&outbox.folder).unwrap().count(), 2);
        assert_eq!(forget().await, Ok(0));
    }

    #[tokio::test]
    async fn a_mail_server_that_hangs_or_is_not_there_is_told_within_the_time() {
        // The listener's backlog takes the connection, and nobody ever answers.
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let hangs = smtp(silent.local_addr().unwrap().port());
        let reason = hangs.deliver(message("ada@example.test")).await.unwrap_err().reason;
        assert_eq!(reason, "the mail server did not answer in time");
        let port = silent.local_addr().unwrap().port();
        drop(silent);
        let failure = smtp(port).deliver(message("ada@example.test")).await.unwrap_err();
        assert_eq!(failure.reason, "the mail server is not reached: connection refused");
        assert!(!failure.is_refusal);
        // What no mail can be addressed to is told at once.
        let unfit = smtp(port).deliver(message("a,b@example.test")).await.unwrap_err();
        assert!(unfit.is_refusal, "{unfit}");
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let args = ServeArgs { smtp_host: Some("mail.example.test".into()), ..Default::default() };
        assert!(matches!(post_office(&args, "http://127.0.0.1:1"), Err(MailError::From(_))));
        let from = Some("no address".to_owned());
        let args = ServeArgs { mail_from: from, ..ServeArgs::default() };
        assert!(matches!(post_office(&args, "http://127.0.0.1:1"), Err(MailError::From(_))));
        for wrong in ["example.test", "ftp://example.test", "https://", "https://a b", "http:///x"]
        {
            let public_url = Some(wrong.to_owned());
            let args = ServeArgs { public_url, ..ServeArgs::default() };
            let refused = post_office(&args, "http://127.0.0.1:1");
            assert!(matches!(refused, Err(MailError::PublicUrl(_))), "{wrong}");
        }
        let office = post_office(&ServeArgs::default(), "http://127.0.0.1:1/").unwrap();
        assert_eq!(office.public_url(), "http://127.0.0.1:1");
    }
}
