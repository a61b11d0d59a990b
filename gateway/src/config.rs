//! Settings: flags over `BAILIWICK_*` variables over a TOML file over defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use serde::Deserialize;

use crate::authenticate::MetricsFor;
use crate::mail::SmtpTls;

/// The names of the engines.
const ENGINES: [&str; 2] = ["redb", "sled"];

/// The options of `bailiwick serve`.
#[derive(Args, Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeArgs {
    /// Where to listen
    #[arg(long, env = "BAILIWICK_LISTEN", default_value = "127.0.0.1:8787")]
    pub listen: SocketAddr,
    /// Where everything is kept; made if it is missing
    #[arg(long, env = "BAILIWICK_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// A TOML file with these settings, by their long names with underscores
    #[arg(long, env = "BAILIWICK_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// The storage engine; the data folder stays with the one it was made with
    #[arg(long, env = "BAILIWICK_ENGINE", default_value = "redb", value_parser = ENGINES)]
    pub engine: String,
    /// With less room on the disk than this, in MiB, new work is refused; 0 for never. Without it
    /// 256 MiB, or 2 % of the disk if that is less
    #[arg(long, env = "BAILIWICK_LOW_SPACE_MIB")]
    pub low_space_mib: Option<u32>,
    /// The engine's cache, in MiB
    #[arg(long, env = "BAILIWICK_CACHE_MIB", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub cache_mib: u32,
    /// Days after which records behind a snapshot move to archive files
    #[arg(long, env = "BAILIWICK_KEEP", value_name = "DAYS", default_value_t = 90,
          value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub keep: u32,
    /// For development: e-mail links are printed, private upstream addresses are allowed, payments
    /// are the sandbox's
    #[arg(long, env = "BAILIWICK_DEV")]
    pub dev: bool,
    /// Sign user tokens with EdDSA instead of RS256
    #[arg(long, env = "BAILIWICK_EDDSA")]
    pub eddsa: bool,
    /// Connections at once; further ones wait to be accepted
    #[arg(long, env = "BAILIWICK_CONNECTIONS_MAX", default_value_t = 8_192)]
    pub connections_max: usize,
    /// Connections of one address at once, but for loopback; without it a quarter of all
    #[arg(long, env = "BAILIWICK_CONNECTIONS_PER_ADDRESS")]
    pub connections_per_address: Option<usize>,
    /// The certificate chain in PEM form: with it the server speaks TLS; read again on SIGHUP
    #[arg(long, env = "BAILIWICK_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM form
    #[arg(long, env = "BAILIWICK_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Who sees /metrics without a credential; others show the service token or an operator's
    #[arg(long, env = "BAILIWICK_METRICS_FOR", default_value = "loopback", value_enum)]
    pub metrics_for: MetricsFor,
    /// Requests a second that one tenant may make
    #[arg(long, env = "BAILIWICK_TENANT_RATE", default_value_t = 100_000)]
    pub tenant_rate: u32,
    /// Requests a second that one address may make without a credential
    #[arg(long, env = "BAILIWICK_ANONYMOUS_RATE", default_value_t = 200)]
    pub anonymous_rate: u32,
    /// Requests a minute that one address may make to the webhooks of one app
    #[arg(long, env = "BAILIWICK_WEBHOOK_ADDRESS_RATE", default_value_t = 300)]
    pub webhook_address_rate: u32,
    /// Requests a minute that the webhooks of one app take for one paying tenant
    #[arg(long, env = "BAILIWICK_WEBHOOK_APP_RATE", default_value_t = 600)]
    pub webhook_app_rate: u32,
    /// Credits that the webhooks of one app may cost one paying tenant in a day, until it sets a
    /// limit of its own; 0 for as many as it has
    #[arg(long, env = "BAILIWICK_WEBHOOK_CREDITS_A_DAY", default_value_t = 10_000,
          value_parser = clap::value_parser!(i64).range(0..))]
    pub webhook_credits_a_day: i64,
    /// Verified tokens that are kept, so that a signature is checked once
    #[arg(long, env = "BAILIWICK_TOKEN_CACHE", default_value_t = 65_536)]
    pub token_cache: usize,
    /// How long a key signs user tokens before the next one does, in days
    #[arg(long, env = "BAILIWICK_SIGNING_KEY_DAYS", default_value_t = 90,
          value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub signing_key_days: u32,
    /// Failed logins a minute that one address has free, whatever the accounts
    #[arg(long, env = "BAILIWICK_LOGIN_ADDRESS_RATE", default_value_t = 60)]
    pub login_address_rate: u32,
    /// Credits that the platform takes for each extension call
    #[arg(long, env = "BAILIWICK_CALL_PRICE", default_value_t = 1)]
    pub call_price: i64,
    /// Apps that a developer has whose tier costs nothing
    #[arg(long, env = "BAILIWICK_EXPLORER_APPS", default_value_t = 1)]
    pub explorer_apps: usize,
    /// Credits that a payout to a developer has at least
    #[arg(long, env = "BAILIWICK_PAYOUT_MINIMUM", default_value_t = 10_000,
          value_parser = clap::value_parser!(i64).range(1..))]
    pub payout_minimum: i64,
    /// What a credit is worth in a payout, in millionths of a US dollar
    #[arg(long, env = "BAILIWICK_CREDIT_MICRODOLLARS", default_value_t = 1_000,
          value_parser = clap::value_parser!(i64).range(1..=1_000_000_000))]
    pub credit_microdollars: i64,
    /// Ports of outgoing URLs beside 443, between commas: hosts of apps, models
    #[arg(long, env = "BAILIWICK_EGRESS_PORTS", value_delimiter = ',', value_name = "PORTS")]
    pub egress_ports: Vec<u16>,
    /// How many seconds an app's own host has for its answer
    #[arg(long, env = "BAILIWICK_HOST_TIMEOUT_S", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    pub host_timeout_s: u64,
    /// Where `ai.complete` is answered: the base of a chat completions interface, such as
    /// https://api.example.com/v1; without it such steps fail with `ai_not_configured`
    #[arg(long, env = "BAILIWICK_AI_URL")]
    pub ai_url: Option<String>,
    /// The model that is asked unless a step names one
    #[arg(long, env = "BAILIWICK_AI_MODEL", default_value = "default")]
    pub ai_model: String,
    /// The key for it
    #[arg(long, env = "BAILIWICK_AI_KEY", hide_env_values = true)]
    #[serde(skip)]
    pub ai_key: Option<Hidden>,
    /// A file whose first line is that key
    #[arg(long, env = "BAILIWICK_AI_KEY_FILE", conflicts_with = "ai_key")]
    pub ai_key_file: Option<PathBuf>,
    /// Take payments by the embedded sandbox, in which no money moves; implied by --dev
    #[arg(long, env = "BAILIWICK_SANDBOX_PAYMENTS")]
    pub sandbox_payments: bool,
    /// The secret key of the account at Stripe that payments go to
    #[arg(
        long,
        env = "BAILIWICK_STRIPE_SECRET_KEY",
        hide_env_values = true,
        requires = "stripe_publishable_key"
    )]
    #[serde(skip)]
    pub stripe_secret_key: Option<Hidden>,
    /// A file whose first line is that key
    #[arg(long, env = "BAILIWICK_STRIPE_SECRET_KEY_FILE", conflicts_with = "stripe_secret_key")]
    pub stripe_secret_key_file: Option<PathBuf>,
    /// The key of that account that payers' programs may know
    #[arg(long, env = "BAILIWICK_STRIPE_PUBLISHABLE_KEY")]
    pub stripe_publishable_key: Option<String>,
    /// What that account signs the events with that it sends to /v1/webhooks/stripe
    #[arg(long, env = "BAILIWICK_STRIPE_WEBHOOK_SECRET", hide_env_values = true)]
    #[serde(skip)]
    pub stripe_webhook_secret: Option<Hidden>,
    /// Where Stripe is reached
    #[arg(long, env = "BAILIWICK_STRIPE_API_BASE", default_value = "https://api.stripe.com")]
    pub stripe_api_base: String,
    /// How browsers reach this server: links in mails begin with it, and passkeys are bound to it;
    /// without it, where it listens, and for passkeys `localhost`
    #[arg(long, env = "BAILIWICK_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// Who mails are from: `Name <name@example.com>`; needed with a mail server
    #[arg(long, env = "BAILIWICK_MAIL_FROM")]
    pub mail_from: Option<String>,
    /// The mail server; without one mails are written to DATA_DIR/outbox
    #[arg(long, env = "BAILIWICK_SMTP_HOST")]
    pub smtp_host: Option<String>,
    /// The mail server's port; 587, 465 or 25 by --smtp-tls
    #[arg(long, env = "BAILIWICK_SMTP_PORT")]
    pub smtp_port: Option<u16>,
    /// How the connection to the mail server is protected
    #[arg(long, env = "BAILIWICK_SMTP_TLS", value_enum, default_value_t)]
    pub smtp_tls: SmtpTls,
    /// Who logs in to the mail server
    #[arg(long, env = "BAILIWICK_SMTP_USER")]
    pub smtp_user: Option<String>,
    /// The password for the mail server
    #[arg(long, env = "BAILIWICK_SMTP_PASSWORD", hide_env_values = true)]
    #[serde(skip)]
    pub smtp_password: Option<Hidden>,
    /// How many seconds the mail server has to take a mail
    #[arg(long, env = "BAILIWICK_SMTP_TIMEOUT_S", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    pub smtp_timeout_s: u64,
    /// Go on with a journal that lost acknowledged commits; the hash is in the refusal
    #[arg(long)]
    #[serde(skip)]
    pub accept_loss: Option<String>,
    /// The operator's e-mail address, used at the first start
    #[arg(
        long,
        env = "BAILIWICK_OPERATOR_EMAIL",
        default_value = "operator@localhost.localdomain"
    )]
    pub operator_email: String,
    /// The operator's password at the first start; without it one is made and printed
    #[arg(long, env = "BAILIWICK_OPERATOR_PASSWORD", hide_env_values = true)]
    #[serde(skip)]
    pub operator_password: Option<Hidden>,
    /// The service token; without it one is derived from the master key, printed at first start
    #[arg(long, env = "BAILIWICK_SERVICE_TOKEN", hide_env_values = true)]
    #[serde(skip)]
    pub service_token: Option<Hidden>,
    /// The master key as 64 hex digits; without it DATA_DIR/master.key is used
    #[arg(long, env = "BAILIWICK_MASTER_KEY", hide_env_values = true)]
    #[serde(skip)]
    pub master_key: Option<Hidden>,
}

/// A setting that is never shown.
#[derive(Clone)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

impl std::str::FromStr for Hidden {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// The settings file is unusable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("the settings file {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("the settings file {path} is not valid: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
}

impl Default for ServeArgs {
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct Defaults {
            #[command(flatten)]
            serve: ServeArgs,
        }
        <Defaults as clap::Parser>::parse_from(["bailiwick"]).serve
    }
}

impl ServeArgs {
    /// Takes what the settings file says, where neither a flag nor the environment does.
    pub fn with_file(mut self, matches: &ArgMatches) -> Result<Self, ConfigError> {
        let Some(path) = self.config.clone() else { return Ok(self) };
        let file = read(&path)?;
        let is_default = |name: &str| {
            matches!(matches.value_source(name), None | Some(ValueSource::DefaultValue))
        };
        macro_rules! take {
            ($($field:ident),*) => {
                $(if is_default(stringify!($field)) { self.$field = file.$field; })*
            };
        }
        take!(
            listen,
            data_dir,
            engine,
            low_space_mib,
            cache_mib,
            keep,
            dev,
            eddsa,
            connections_max,
            connections_per_address,
            tls_cert,
            tls_key,
            metrics_for,
            tenant_rate,
            anonymous_rate,
            webhook_address_rate,
            webhook_app_rate,
            webhook_credits_a_day,
            token_cache,
            signing_key_days,
            login_address_rate,
            call_price,
            explorer_apps,
            payout_minimum,
            credit_microdollars,
            egress_ports,
            host_timeout_s,
            ai_url,
            ai_model,
            ai_key_file,
            sandbox_payments,
            stripe_secret_key_file,
            stripe_publishable_key,
            stripe_api_base,
            operator_email,
            public_url,
            mail_from,
            smtp_host,
            smtp_port,
            smtp_tls,
            smtp_user,
            smtp_timeout_s
        );
        Ok(self)
    }
}

fn read(path: &Path) -> Result<ServeArgs, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|source| {
        let source = Box::new(source);
        ConfigError::Parse { path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, FromArgMatches as _};

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn parse(file: &str, flags: &[&str]) -> Result<ServeArgs, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bailiwick.toml");
        std::fs::write(&path, file).unwrap();
        let mut words = vec!["bailiwick", "--config", path.to_str().unwrap()];
        words.extend(flags);
        let matches = Cli::command().get_matches_from(words);
        Cli::from_arg_matches(&matches).unwrap().serve.with_file(&matches)
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = "listen = \"127.0.0.1:1\"\ncall_price = 7\n";
        let args = parse(file, &["--call-price", "3"]).unwrap();
        assert_eq!((args.listen.port(), args.call_price), (1, 3));
        assert_eq!(args.cache_mib, ServeArgs::default().cache_mib);
    }

    #[test]
    fn an_unknown_setting_is_named_with_its_line() {
        let error = parse("liste = 1", &[]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("liste") && text.contains("line 1"), "{text}");
    }
}
