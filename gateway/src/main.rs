//! The command line.

use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use gateway::config::ServeArgs;
use gateway::start::{Running, start};
use gateway::{demo, load, routes};
use identity::mail::PostOffice;
use tracing_subscriber::EnvFilter;

/// Gives freed memory back sooner than the C library's own, and serves many threads faster.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The control plane for platforms that run extensions and agents for many tenants.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
    /// Log as JSON, one object a line
    #[arg(long, global = true, env = "BAILIWICK_LOG_JSON")]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (what happens without a subcommand)
    Serve(Box<ServeArgs>),
    /// Tell the whole story against a server, step by step, with its real answers
    Demo(demo::DemoArgs),
    /// Load a running server and report what it does
    Load(Box<load::LoadArgs>),
    /// Check a data folder: every chain, archive, entity and wallet; or a backup
    Verify(gateway::verify::VerifyArgs),
    /// Change the keys of a data folder that no server is using
    Keys(gateway::keys::KeysArgs),
    /// Take a backup, of a stopped folder or of a running server
    ///
    /// The key file DATA_DIR/data-keys is not in it. Without that file, as it was at the backup or
    /// is later, and without the master key, a backup cannot be read: keep both, and elsewhere. A
    /// key that is erased from the key file erases what it sealed from every backup.
    Backup(gateway::backup::BackupArgs),
    /// Make a data folder of a backup
    ///
    /// Everything is checked before anything is written: the whole file, and that the key file
    /// fits. The new folder is another generation of the store, and the restore stands in its
    /// chain.
    Restore(gateway::restore::RestoreArgs),
    /// Work on the journal of a data folder
    Journal(gateway::restore::JournalArgs),
    /// Write one tenant of a stopped folder into an encrypted file, for another installation
    Export(gateway::portability::ExportArgs),
    /// Take a tenant that was exported into a stopped folder
    ///
    /// Everything is checked before anything is written. Members are found by their e-mail
    /// addresses, or given an account for which they set a password by mail.
    Import(gateway::portability::ImportArgs),
    /// Rebuild the rows of a data folder from its records
    Reindex(gateway::reindex::ReindexArgs),
    /// Print the OpenAPI document
    Openapi,
}

/// What the allocator is told, which it reads from its environment alone, and early: so the process
/// begins anew with it, once. Freed memory goes back to the system soon (milliseconds), and each
/// thread looks after so many slow allocations for what others have freed of its own: without them
/// an idle server keeps 25 MB and 40 MB more.
const ALLOCATOR_SETTINGS: [(&str, &str); 2] =
    [("MIMALLOC_PURGE_DELAY", "10"), ("MIMALLOC_GENERIC_COLLECT", "200")];

/// Begins anew with the allocator's settings; where that does not work, they are left out. What
/// the operator has set stays.
fn set_up_allocator() {
    let missing =
        ALLOCATOR_SETTINGS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none());
    let missing: Vec<_> = missing.collect();
    if let (false, Ok(program)) = (missing.is_empty(), std::env::current_exe()) {
        let mut same = std::process::Command::new(program);
        let _ = same.args(std::env::args_os().skip(1)).envs(missing).exec();
    }
}

fn main() -> ExitCode {
    set_up_allocator();
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    log(cli.log_json);
    // Threads without work give back what they do not need; they often wake for a moment.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().on_thread_park(|| {
        persistence::tidy();
    });
    let runtime = match runtime.build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(71, &error),
    };
    runtime.block_on(run(cli, &matches))
}

async fn run(cli: Cli, matches: &ArgMatches) -> ExitCode {
    match cli.command {
        None => serve(cli.serve, matches).await,
        Some(Command::Serve(args)) => {
            let matches = matches.subcommand_matches("serve").unwrap_or(matches);
            serve(*args, matches).await
        }
        Some(Command::Demo(args)) => match demo::run(args).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error),
        },
        Some(Command::Load(args)) => match load::run(*args).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error),
        },
        Some(Command::Verify(args)) => ended(gateway::verify::run(&args).await),
        Some(Command::Backup(args)) => ended(gateway::backup::run(&args).await),
        Some(Command::Restore(args)) => ended(gateway::restore::restore(&args).await),
        Some(Command::Journal(args)) => ended(gateway::restore::journal(&args).await),
        Some(Command::Export(args)) => ended(gateway::portability::export_tenant(&args).await),
        Some(Command::Import(args)) => ended(gateway::portability::import_tenant(&args).await),
        Some(Command::Reindex(args)) => ended(gateway::reindex::run(&args).await.map(drop)),
        Some(Command::Keys(args)) => match gateway::keys::run(&args).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error),
        },
        Some(Command::Openapi) => {
            say(&routes::document().to_pretty_json().unwrap_or_default());
            ExitCode::SUCCESS
        }
    }
}

/// How a command on a data folder ends.
fn ended(outcome: Result<(), gateway::offline::OfflineError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.exit_code(), &error),
    }
}

async fn serve(args: ServeArgs, matches: &ArgMatches) -> ExitCode {
    let args = match args.with_file(matches) {
        Ok(args) => args,
        Err(error) => return fail(78, &error),
    };
    let mut running = match start(&args).await {
        Ok(running) => running,
        Err(error) => return fail(error.exit_code(), &error),
    };
    banner(&args, &running);
    let mut reload = hangups();
    let failed = loop {
        tokio::select! {
            () = stop_asked() => break false,
            () = running.failed() => break true,
            Some(()) = reload.recv() => running.reload(),
        }
    };
    running.stop().await;
    if failed { ExitCode::from(70) } else { ExitCode::SUCCESS }
}

async fn stop_asked() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("stopping: requests in flight may finish");
}

/// One message for each SIGHUP.
fn hangups() -> tokio::sync::mpsc::Receiver<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    if let Ok(mut hangup) = signal(SignalKind::hangup()) {
        tokio::spawn(async move {
            while hangup.recv().await.is_some() && sender.send(()).await.is_ok() {}
        });
    }
    receiver
}

fn banner(args: &ServeArgs, running: &Running) {
    let url = running.url();
    say(&format!("Bailiwick {} serves {url}", env!("CARGO_PKG_VERSION")));
    say(&format!("  console  {url}/console"));
    say(&format!("  docs     {url}/docs"));
    say(&format!("  data     {}", args.data_dir.display()));
    say(&format!("  mail     {}", running.app.system.port::<PostOffice>().mailer_name()));
    say(&format!("  payments {}", gateway::payments::said(&running.app.system)));
    let Some(first) = &running.first_start else { return };
    say("First start. This is shown once:");
    say(&format!("  operator       {}", args.operator_email));
    if let Some(password) = &first.operator_password {
        say(&format!("  password       {password}"));
    }
    if let Some(token) = &first.service_token {
        say(&format!("  service token  {token}"));
    }
}

fn log(json: bool) {
    let filter = EnvFilter::try_from_env("BAILIWICK_LOG").unwrap_or_else(|_| "info".into());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter);
    let subscriber = subscriber.with_writer(std::io::stderr);
    if json {
        subscriber.json().init();
    } else {
        subscriber.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

#[expect(clippy::print_stdout, reason = "what a person started this for")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "the one line that says why it ends")]
fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    eprintln!("bailiwick: {text}");
    ExitCode::from(code)
}
