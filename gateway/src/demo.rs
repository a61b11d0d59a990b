//! `bailiwick demo`: the whole story, told step by step with a server's real answers: an app is
//! written, reviewed, found, bought, called, paid out and changed, and all of it is accounted for.
//!
//! Against a running server (`--url`), or against one of its own in a folder that is thrown away.
//! Every step is an HTTP request as a stranger would send it. On its own server the developer signs
//! up by mail, which is read from the outbox; elsewhere through the account API. What an operator
//! does is left out where no operator's password is given, and said so.

mod app;
mod story;
mod teller;

use std::path::PathBuf;

use crate::config::{Hidden, ServeArgs};
use crate::start::{Running, StartError, start};
use story::Story;
use teller::Teller;

/// Of everybody in the story.
const PASSWORD: &str = "a-long-enough-password";

/// The options of `bailiwick demo`.
#[derive(clap::Args, Debug)]
pub struct DemoArgs {
    /// The server; without it the demo starts one of its own
    #[arg(long)]
    pub url: Option<String>,

    /// Its operator, who reviews, fills wallets and pays out; without one the story is shorter
    #[arg(long, env = "BAILIWICK_OPERATOR_EMAIL")]
    pub operator_email: Option<String>,

    /// The operator's password
    #[arg(long, env = "BAILIWICK_OPERATOR_PASSWORD", hide_env_values = true)]
    pub operator_password: Option<Hidden>,
}

/// The story could not be told to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The demo's own server did not start.
    #[error("the demo's own server did not start: {0}")]
    Start(#[from] StartError),
    /// The folder for it could not be made, read or removed.
    #[error("a folder for the demo's own server: {0}")]
    Folder(#[from] std::io::Error),
    /// The server could not be reached.
    #[error("{0} could not be reached: {1}")]
    Unreachable(String, String),
    /// A step was answered otherwise than it should be.
    #[error("`{step}` was answered {status}: {answer}")]
    Unexpected {
        /// The step.
        step: String,
        /// The status.
        status: u16,
        /// The answer.
        answer: String,
    },
}

/// Who keeps the marketplace of a server.
struct OperatorLogin {
    email: String,
    password: String,
}

/// Tells the story.
pub async fn run(args: DemoArgs) -> Result<(), DemoError> {
    if let Some(url) = args.url {
        let login = args.operator_email.zip(args.operator_password);
        let operator = login.map(|(email, Hidden(password))| OperatorLogin { email, password });
        return Story::new(Teller::new(url), operator, None).tell().await;
    }
    let folder = std::env::temp_dir().join(format!("bailiwick-demo-{}", std::process::id()));
    let args = own_settings(folder.clone());
    let (email, password) = (args.operator_email.clone(), PASSWORD.to_owned());
    let running: Running = start(&args).await?;
    let teller = Teller::new(format!("http://{}", running.address));
    let outbox = Some(folder.join(crate::mail::OUTBOX));
    let told = Story::new(teller, Some(OperatorLogin { email, password }), outbox).tell().await;
    running.stop().await;
    std::fs::remove_dir_all(&folder)?;
    told
}

fn own_settings(data_dir: PathBuf) -> ServeArgs {
    ServeArgs {
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        data_dir,
        operator_password: Some(Hidden(PASSWORD.to_owned())),
        ..ServeArgs::default()
    }
}
