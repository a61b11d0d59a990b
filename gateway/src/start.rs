//! Starting: from settings to a server that serves, in the order in which things may fail.
//!
//! The port is taken first, so that a taken port touches no data; then the folder, the keys, the
//! journal, the actors, and what was pending when the last process ended.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use activity::feed::{Feed, Tellers};
use activity::operator_act::{self, Noted};
use agents::farewell::AgentsFarewell;
use agents::{AgentSettings, Agents};
use automations::{AutomationsApp, AutomationsFarewell, Automator};
use billing::payments::Payments;
use confirmations::Executors;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use extensions::Outside;
use extensions::completion::Completions;
use extensions::hosts::Hosts;
use extensions::outgoing::Outgoing;
use extensions::session::ExtensionSession;
use extensions::signing::HostKeys;
use identity::claim::ClaimKey;
use identity::operator::Bootstrap;
use identity::passkey::Site;
use identity::password::{Hasher, PasswordPolicy};
use identity::signing_keys::SigningAlgorithm;
use identity::{Identity, IdentitySettings};
use market::{Bookkeeper, DeveloperApp, Freezer, Market, MarketSettings, Storefront};
use persistence::{
    EngineKind, FolderLock, Journal, MasterKey, OpenError, Options, SealError, Shard,
};
use portability::Portability;
use ractor::{Actor, ActorRef};
use supervision::idempotency::{OUTCOME_FAMILY, SHOWN_ONCE_FAMILY};
use supervision::supervisor::{Board, Strategy, Supervisor, periodic};
use supervision::system::SystemBuilder;
use supervision::{Home, Refusal, System, SystemOptions};
use tokio::net::TcpListener;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::admission::Admission;
use crate::app::{App, Parts};
use crate::authenticate::ServiceToken;
use crate::config::{Hidden, ServeArgs};
use crate::egress::{Egress, Rules};
use crate::front::Front;
use crate::mail::{self, MailError};
use crate::metrics::Metrics;
use crate::tls::{Tls, TlsError};
use crate::webhook_limits::WebhookLimits;
use crate::{archive, payments, routes, server};

/// How often reminders are looked at.
const REMINDERS_PERIOD: Duration = Duration::from_millis(50);
/// How often it is felt what the threads keep up with.
const PACE_PERIOD: Duration = Duration::from_millis(20);
/// How often idle actors are looked for.
const SWEEP_PERIOD: Duration = Duration::from_millis(500);
/// How often old outcomes, keys and limits are cleared away.
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(60);
/// More restarts of system actors than this within the period end the server.
const RESTARTS_MAX: usize = 20;
const RESTARTS_PERIOD: Duration = Duration::from_secs(60);

/// Why the server does not start. Nothing was served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("{address} cannot be listened on: {source}. Choose another with --listen")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no such engine: the settings file is not checked as flags are.
    #[error("there is no engine {0:?}: redb and sled are")]
    Engine(String),
    /// The data folder does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The keys do not open.
    #[error(transparent)]
    Keys(#[from] SealError),
    /// The master key in the settings is none.
    #[error("BAILIWICK_MASTER_KEY must be 64 hex digits")]
    MasterKey,
    /// The public URL is none.
    #[error("{0:?} is no public URL: give https://HOST or http://HOST[:PORT] in --public-url")]
    PublicUrl(String),
    /// The folder has data, and the key that it is sealed under is gone.
    #[error(
        "{0} is missing, and the data beside it is sealed under it. Put it back, or give it \
             in BAILIWICK_MASTER_KEY"
    )]
    MasterKeyMissing(std::path::PathBuf),
    /// The journal could not be read.
    #[error("the journal could not be read: {0}")]
    Read(#[from] persistence::ReadError),
    /// A first step was refused.
    #[error("the server could not make its first steps: {0}")]
    Refused(#[from] Refusal),
    /// The password hasher did not start.
    #[error("the password hasher did not start: {0}")]
    Hasher(#[from] identity::password::HashError),
    /// Mail cannot be sent as the settings say.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// Prompts cannot be completed as the settings say.
    #[error("--ai-url or its key cannot be used: {0}")]
    Model(String),
    /// Payments cannot be taken as the settings say.
    #[error("the settings for Stripe cannot be used: {0}")]
    Payments(String),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system's own actors did not start.
    #[error("the system's own actors did not start: {0}")]
    Supervisor(#[from] ractor::SpawnErr),
}

impl StartError {
    /// The process's exit code, as `sysexits.h` names them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Listen { .. } => 69,
            Self::Open(OpenError::InUse(_)) => 75,
            Self::Open(OpenError::Folder { .. } | OpenError::LowSpace { .. }) => 73,
            Self::Open(_) | Self::Keys(_) | Self::Engine(_) => 78,
            Self::MasterKey | Self::MasterKeyMissing(_) => 78,
            Self::Mail(_) | Self::PublicUrl(_) | Self::Tls(_) | Self::Model(_) => 78,
            Self::Payments(_) => 78,
            Self::Read(_) => 74,
            Self::Refused(_) | Self::Hasher(_) | Self::Supervisor(_) => 70,
        }
    }
}

/// What is told once, at the first start.
pub struct FirstStart {
    /// The operator's password, if one was made up.
    pub operator_password: Option<String>,
    /// The service token, if it was not given.
    pub service_token: Option<String>,
}

/// A server that listens.
pub struct Running {
    /// The application.
    pub app: App,
    /// Where it listens.
    pub address: std::net::SocketAddr,
    /// Said once.
    pub first_start: Option<FirstStart>,
    /// The certificate, if it speaks TLS.
    pub tls: Option<Arc<Tls>>,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
    supervisor: ActorRef<()>,
    supervisor_ended: tokio::task::JoinHandle<()>,
    _lock: FolderLock,
}

impl Running {
    /// Lets the requests in flight and the actors finish, then closes the journal.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.serving.await;
        self.app.system.port::<Automator>().close();
        self.app.extensions.let_go_of_tasks().await;
        self.supervisor.stop(None);
        if !self.supervisor_ended.is_finished() {
            let _ = self.supervisor_ended.await;
        }
        let _ = self.app.identity.write_key_uses();
        let _ = self.app.agents.write_seen();
        self.app.system.stop().await;
    }

    /// Where it is, as a client writes it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Reads the certificate again. One that does not fit is said in the log, and changes nothing.
    pub fn reload(&self) {
        match self.tls.as_ref().map(|tls| tls.reload()) {
            None => tracing::info!("there is nothing to read again"),
            Some(Ok(())) => tracing::info!("the certificate was read again"),
            Some(Err(error)) => tracing::error!(%error, "the certificate was not changed"),
        }
    }

    /// Ends when the system's own actors have failed for good.
    pub async fn failed(&mut self) {
        let _ = (&mut self.supervisor_ended).await;
    }
}

/// The master key: the one given, or the data folder's own, made if it has none.
pub fn master_key(folder: &Path, given: Option<&Hidden>) -> Result<MasterKey, StartError> {
    let Some(hex) = given else {
        let path = folder.join("master.key");
        if !path.exists() && folder.join("data-keys").exists() {
            return Err(StartError::MasterKeyMissing(path));
        }
        return with_root(folder, persistence::load_master_key(folder)?);
    };
    with_root(folder, given_master_key(hex)?)
}

fn with_root(folder: &Path, master: MasterKey) -> Result<MasterKey, StartError> {
    Ok(persistence::with_root(folder, master).map_err(OpenError::Keys)?)
}

/// A master key from the settings.
pub fn given_master_key(hex: &Hidden) -> Result<MasterKey, StartError> {
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.0.trim().as_bytes());
    let bytes = bytes.map_err(|_| StartError::MasterKey)?;
    Ok(MasterKey::from_bytes(bytes.try_into().map_err(|_| StartError::MasterKey)?))
}

fn open_journal(args: &ServeArgs, master: &MasterKey) -> Result<Arc<Journal>, StartError> {
    let unknown = || StartError::Engine(args.engine.clone());
    let engine = EngineKind::named(&args.engine).ok_or_else(unknown)?;
    if engine == EngineKind::Sled {
        tracing::warn!("the engine sled is beta by its own words; here it runs guarded");
    }
    let low_space_bytes = args.low_space_mib.map(|mib| u64::from(mib) * 1024 * 1024);
    let options = Options {
        engine,
        low_space_bytes,
        cache_bytes: args.cache_mib as usize * 1024 * 1024,
        accept_loss: args.accept_loss.clone(),
        ..Options::new(&args.data_dir)
    };
    Ok(Journal::open(options, master)?)
}

fn is_fresh(folder: &Path) -> bool {
    !folder.join("master.key").exists() && !folder.join("data-keys").exists()
}

pub(crate) fn new_identity(
    args: &ServeArgs,
    master: &MasterKey,
) -> Result<Arc<Identity>, StartError> {
    let algorithm = if args.eddsa { SigningAlgorithm::EdDsa } else { SigningAlgorithm::Rs256 };
    let local = || format!("http://localhost:{}", args.listen.port());
    let public_url = args.public_url.clone().unwrap_or_else(local);
    let settings = IdentitySettings {
        algorithm,
        key_period_ms: u64::from(args.signing_key_days) * 24 * 3_600_000,
        login_address_attempts_max: args.login_address_rate,
        site: Site::of(&public_url).ok_or(StartError::PublicUrl(public_url))?,
        cache_capacity: args.token_cache.max(1),
        ..IdentitySettings::default()
    };
    let hasher = Hasher::start(PasswordPolicy::default())?;
    Ok(Identity::new(settings, hasher, ClaimKey::of(master)?))
}

/// Starts a server.
pub async fn start(args: &ServeArgs) -> Result<Running, StartError> {
    let address = args.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| StartError::Listen { address, source })?;
    let address = listener.local_addr().unwrap_or(address);
    let tls = Tls::load(args.tls_cert.as_deref(), args.tls_key.as_deref())?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let post_office = mail::post_office(args, &format!("{scheme}://{address}"))?;
    let fresh = is_fresh(&args.data_dir);
    let lock = FolderLock::take(&args.data_dir)?;
    crate::backup::remove_unfinished(&args.data_dir);
    let master = master_key(&args.data_dir, args.master_key.as_ref())?;
    let identity = new_identity(args, &master)?;
    let journal = open_journal(args, &master)?;
    let public_url = post_office.public_url().to_owned();
    let builder = System::builder(SystemOptions::new(journal)).port(post_office);
    let builder = payments::put_in(args, builder, &public_url).map_err(StartError::Payments)?;
    let built = build(args, builder, &identity, &master)?;
    payments::attach(&built.system);
    run(args, Opened { listener, address, tls, fresh, lock, master, identity }, built).await
}

/// What is there before the first actor.
struct Opened {
    listener: TcpListener,
    address: std::net::SocketAddr,
    tls: Option<Arc<Tls>>,
    fresh: bool,
    lock: FolderLock,
    master: MasterKey,
    identity: Arc<Identity>,
}

/// Every kind on an open journal: what serves, and what works on a folder that nobody serves.
pub(crate) struct Built {
    pub(crate) system: Arc<System>,
    agents: Arc<Agents>,
    extensions: Arc<extensions::Extensions>,
    market: Arc<Market>,
    portability: Arc<Portability>,
    freezer: Arc<Freezer>,
}

/// Who is outside: the apps' own hosts, and the model, if there is one.
fn outside(args: &ServeArgs, master: &MasterKey) -> Result<Arc<Outside>, StartError> {
    let rules = Rules { private: args.dev, ports: args.egress_ports.clone() };
    let egress: Arc<dyn Outgoing> = Arc::new(Egress::new(rules));
    let keys = HostKeys::new(&*master.derive("app host keys")?);
    let time_max = Duration::from_secs(args.host_timeout_s);
    let completions = match &args.ai_url {
        None => None,
        Some(url) => {
            egress.check(url).map_err(StartError::Model)?;
            let key = ai_key(args)?;
            Some(Completions::new(egress.clone(), url, key, args.ai_model.clone()))
        }
    };
    Ok(Arc::new(Outside { hosts: Hosts::new(egress, keys, time_max), completions }))
}

fn ai_key(args: &ServeArgs) -> Result<Option<Zeroizing<String>>, StartError> {
    if let Some(key) = &args.ai_key {
        return Ok(Some(Zeroizing::new(key.0.clone())));
    }
    let Some(path) = &args.ai_key_file else { return Ok(None) };
    let unread = |error| StartError::Model(format!("{}: {error}", path.display()));
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unread)?);
    let line = text.lines().next().unwrap_or_default().trim();
    Ok(Some(Zeroizing::new(line.to_owned())))
}

pub(crate) fn build(
    args: &ServeArgs,
    builder: SystemBuilder,
    identity: &Arc<Identity>,
    master: &MasterKey,
) -> Result<Built, StartError> {
    let builder = identity::register(builder, identity);
    let builder = control::register(billing::register(activity::register(builder)));
    let agents = Agents::new(agent_settings(args), identity.clone());
    let builder = agents::register(confirmations::register(builder), &agents);
    let apps = extensions::Apps::new();
    let outside = outside(args, master)?;
    let oauth = Arc::new(extensions::oauth::OAuth::new(&*master.derive("oauth verifiers")?));
    let settings = extensions::Settings {
        platform_price_per_call: args.call_price,
        delivery_credits_a_day: args.webhook_credits_a_day,
        outside: Some(outside.clone()),
        frozen: identity.frozen().clone(),
        guard: Some(agents.clone()),
        ..extensions::Settings::default()
    };
    let built_in: Vec<Arc<dyn extensions::BuiltIn>> =
        vec![DeveloperApp::hosting(apps.clone(), Some(outside.clone())), Arc::new(AutomationsApp)];
    let extensions = extensions::Extensions::new(settings, apps.clone(), built_in);
    let feed = Feed::new(tellers());
    let automator = Automator::new(feed.clone(), identity.frozen().clone());
    let builder = builder.port(Executors::new(vec![extensions.clone()]));
    let builder = builder.port(Arc::new(routes::Tickets::default()));
    let builder = builder.port(Arc::new(routes::Published::default()));
    let portability = Portability::new(identity.clone(), apps.clone());
    let farewells: Vec<Arc<dyn identity::erasure::Farewell>> = vec![
        Arc::new(confirmations::farewell::ConfirmationsFarewell),
        Arc::new(billing::farewell::BillingFarewell),
        Arc::new(broker::farewell::BrokerFarewell),
        AgentsFarewell::new(agents.clone()),
        market::farewell::MarketFarewell::new(apps.clone()),
        extensions::ExtensionsFarewell::new(extensions.clone()),
        AutomationsFarewell::new(automator.clone()),
        portability::copies::PortabilityFarewell::new(portability.clone()),
    ];
    let builder = builder.port(extensions.clone());
    let builder = builder.port(Arc::new(identity::erasure::Farewells::new(farewells)));
    let market = Market::with(apps, market_settings(args), Some(outside));
    let bookkeeper = Bookkeeper::new();
    let freezer = Freezer::new(extensions.clone(), identity.frozen().clone());
    let builder = builder.port(feed.clone()).port(freezer.clone()).port(oauth);
    let builder = builder.port(bookkeeper.clone()).port(automator.clone());
    let builder = keeping::register(extensions::register(broker::register(builder)));
    let builder = automations::register(builder);
    let builder = market::register(builder);
    let system = portability::register(builder, &portability).start();
    let epochs = identity.epochs().clone();
    feed.attach(system.journal(), move || epochs.rises());
    bookkeeper.attach(system.journal());
    automator.attach(system.journal());
    Ok(Built { system, agents, extensions, market, portability, freezer })
}

fn agent_settings(args: &ServeArgs) -> AgentSettings {
    AgentSettings {
        key_period_ms: u64::from(args.signing_key_days) * 24 * 3_600_000,
        cache_capacity: args.token_cache.max(1),
        ..AgentSettings::default()
    }
}

fn market_settings(args: &ServeArgs) -> MarketSettings {
    MarketSettings {
        explorer_apps_max: args.explorer_apps,
        payout_minimum: args.payout_minimum,
        credit_microdollars: args.credit_microdollars,
    }
}

/// Lets what was built serve.
async fn run(args: &ServeArgs, opened: Opened, built: Built) -> Result<Running, StartError> {
    let Opened { listener, address, tls, fresh, lock, master, identity } = opened;
    let Built { system, agents, extensions, market, portability, freezer } = built;
    Portability::clear(&system);
    identity.start(&system).await?;
    agents.start(&system).await?;
    let given = args.operator_password.as_ref().map(|password| password.0.clone());
    let bootstrap = identity.ensure_operator(&args.operator_email, given).await?;
    if let Some(hash) = &args.accept_loss {
        note_accepted_loss(&system, hash).await?;
    }
    let admission = Admission::new(args.tenant_rate, args.anonymous_rate);
    freezer.watch(admission.turnstile().clone());
    system.recover_own_times()?;
    portability.load(&system)?;
    let frozen = freezer.load(&system);
    if frozen > 0 {
        tracing::info!(frozen, "what operators have frozen is frozen still");
    }
    let lost = ExtensionSession::lose_left_behind(&system).await;
    if lost > 0 {
        tracing::info!(lost, "runs that had gone outside are recorded as unknown");
    }
    load(&system);
    let recovered = system.recover()?;
    let (service_token, derived) = service_token(args, &master)?;
    let (stop, stopping) = watch::channel(false);
    let board = Board::default();
    let app = App::new(Parts {
        system,
        identity,
        agents,
        extensions,
        market,
        portability,
        freezer,
        activity: Arc::new(activity::Activity::new(describers())),
        service_token: ServiceToken::new(&service_token),
        metrics_for: args.metrics_for,
        admission,
        webhook_limits: WebhookLimits::new(args.webhook_address_rate, args.webhook_app_rate),
        metrics: Metrics::default(),
        board: board.clone(),
        recovered,
        started: Instant::now(),
        stopping: stopping.clone(),
    });
    end_readers_at_stop(&app);
    let (supervisor, supervisor_ended) =
        Actor::spawn(None, supervisor(&app, board, args.keep), ()).await?;
    let front = Front::new(app.clone(), routes::router(app.clone()));
    let serving =
        tokio::spawn(server::run(listener, front, connection_limits(args), tls.clone(), stopping));
    let first_start = first_start(fresh, bootstrap, derived.then_some(service_token));
    Ok(Running {
        app,
        address,
        first_start,
        tls,
        stop,
        serving,
        supervisor,
        supervisor_ended,
        _lock: lock,
    })
}

/// Lets what is kept in memory be made of what is stored.
fn load(system: &Arc<System>) {
    let apps = system.port::<Storefront>().load(system);
    tracing::debug!(apps, "the shop window is laid out");
    let buying = system.port::<Payments>().load(system);
    tracing::debug!(buying, "tenants whose credits are bought by themselves");
    let rules = system.port::<Automator>().load(system);
    tracing::debug!(rules, "what sets rules off is known");
}

fn connection_limits(args: &ServeArgs) -> server::Limits {
    let (connections_max, share) = (args.connections_max, args.connections_per_address);
    let connections_per_address = share.unwrap_or(connections_max / 4).max(1);
    server::Limits { connections_max, connections_per_address }
}

/// Going on without acknowledged commits is an operator's act, and stands in the platform's chain.
async fn note_accepted_loss(system: &System, hash: &str) -> Result<(), Refusal> {
    let text = |text: &str| text.to_owned();
    let reason = format!("--accept-loss={hash}");
    let act =
        Noted { kind: text("journal"), id: text("head"), action: text("accept_loss"), reason };
    operator_act::note(system, Home(0), act, system.system_origin()).await
}

/// How the feed tells the records of each kind.
fn tellers() -> Tellers {
    Tellers::default()
        .with("agent", agents::tell::tell_agent)
        .with("revoked_tokens", agents::tell::tell_revoked)
        .with("app", control::tell::tell)
        .with("automations", automations::tell)
        .with("billing_account", billing::payments::tell::tell_account)
        .with("confirmation", confirmations::tell)
        .with("earnings", market::tell::tell_earnings)
        .with("install", market::tell::tell_install)
        .with("listing", market::tell::tell_listing)
        .with("notices", keeping::tell_notices)
        .with("payment", billing::payments::tell::tell_payment)
        .with("extension_session", extensions::tell)
        .with("session", identity::tell::tell_session)
        .with("subscription", billing::subscription::tell::tell)
        .with("tasks", extensions::tell_tasks)
        .with("tenant", identity::tell::tell_tenant)
        .with("wallet", billing::tell::tell)
}

/// Ends the readers of the feed when the server stops, so that nobody waits for them.
fn end_readers_at_stop(app: &App) {
    let (feed, mut stopping) = (app.system.port::<Feed>(), app.stopping.clone());
    tokio::spawn(async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
        feed.close();
    });
}

fn describers() -> activity::Describers {
    activity::Describers::default()
        .with("agent", agents::tell::describe_agent)
        .with("automations", automations::describe)
        .with("confirmation", confirmations::describe)
        .with("extension_session", extensions::describe)
        .with("ai_completion", keeping::describe_completion)
        .with("report", keeping::describe_report)
        .with_note("report", keeping::note_report)
        .with("tasks", extensions::describe_tasks)
        .with("erasure", identity::erasure::describe)
        .with("install", market::tell::describe_install)
        .with("listing", market::tell::describe_listing)
        .with("payment", billing::payments::tell::describe_payment)
        .with("subscription", billing::subscription::tell::describe)
}

/// The token, and whether it was derived.
fn service_token(args: &ServeArgs, master: &MasterKey) -> Result<(String, bool), SealError> {
    if let Some(given) = &args.service_token {
        return Ok((given.0.clone(), false));
    }
    let derived = master.derive("service token")?;
    Ok((format!("bw_svc_{}", BASE64URL_NOPAD.encode(derived.as_slice())), true))
}

fn first_start(
    fresh: bool,
    bootstrap: Bootstrap,
    service_token: Option<String>,
) -> Option<FirstStart> {
    let operator_password = match bootstrap {
        Bootstrap::Created { password, .. } => password.map(|password| password.to_string()),
        Bootstrap::Present if !fresh => return None,
        Bootstrap::Present => None,
    };
    Some(FirstStart { operator_password, service_token })
}

/// The system's own actors.
fn supervisor(app: &App, board: Board, keep_days: u32) -> Supervisor {
    let (reminders, sweeper, housekeeper) = (app.clone(), app.clone(), app.clone());
    let (archiver, bookkeeper) = (app.clone(), app.clone());
    let (buyer, automator) = (app.clone(), app.clone());
    let turnstile = app.admission.turnstile().clone();
    let children = vec![
        periodic("reminders", REMINDERS_PERIOD, move || {
            let app = reminders.clone();
            async move {
                app.system.fire_reminders();
            }
        }),
        periodic("pacer", PACE_PERIOD, move || {
            let turnstile = turnstile.clone();
            async move { turnstile.keep_pace().await }
        }),
        periodic("sweeper", SWEEP_PERIOD, move || {
            let app = sweeper.clone();
            async move { app.system.sweep() }
        }),
        periodic("housekeeper", HOUSEKEEPING_PERIOD, move || {
            let app = housekeeper.clone();
            async move { housekeep(&app).await }
        }),
        periodic("bookkeeper", market::bookkeeper::PERIOD, move || {
            let app = bookkeeper.clone();
            async move {
                let books = app.system.port::<Bookkeeper>();
                while books.run(&app.system).await {}
            }
        }),
        periodic("top up", billing::payments::auto_top_up::PERIOD, move || {
            let app = buyer.clone();
            async move { app.system.port::<Payments>().top_up_what_is_low(&app.system).await }
        }),
        periodic("automations", automations::automator::PERIOD, move || {
            let app = automator.clone();
            async move {
                let automator = app.system.port::<Automator>();
                while automator.run(&app.system).await {}
            }
        }),
        periodic("archiver", archive::ARCHIVE_PERIOD, move || {
            let app = archiver.clone();
            async move { archive::keep(&app, keep_days).await }
        }),
    ];
    let strategy = Strategy::OneForOne;
    let (intensity, period) = (RESTARTS_MAX, RESTARTS_PERIOD);
    Supervisor { strategy, intensity, period, children, board }
}

async fn housekeep(app: &App) {
    app.admission.housekeep();
    app.webhook_limits.housekeep();
    if let Err(refusal) = app.identity.housekeep().await {
        tracing::warn!(%refusal, "identity's housekeeping is put off");
    }
    if let Err(refusal) = app.agents.housekeep().await {
        tracing::warn!(%refusal, "the agents' housekeeping is put off");
    }
    let system = app.system.clone();
    let minute = system.clock().now().0 / HOUSEKEEPING_PERIOD.as_millis() as i64;
    let cleaned = tokio::task::spawn_blocking(move || {
        for shard in 0..=u8::MAX {
            system.clean_outcomes(Shard(shard), SHOWN_ONCE_FAMILY);
            // The many that are kept for a day have a turn each hour.
            if i64::from(shard) % 60 == minute % 60 {
                system.clean_outcomes(Shard(shard), OUTCOME_FAMILY);
            }
        }
    });
    let _ = cleaned.await;
}
