//! A server in a process of its own, to be killed: the test's own binary, started once more.
//!
//! A test that needs one has a test beside it, by the name of [`CHILD_TEST`], whose body is
//! [`serve`]. It does nothing unless it is started by [`ServerProcess::spawn`], and it ends with
//! its standard input, so it outlives no parent.
#![expect(clippy::print_stdout, reason = "the child tells where it listens")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gateway::config::ServeArgs;
use gateway::start::{Running, start};

use crate::{Api, settings};

/// What the test is called whose body is [`serve`].
pub const CHILD_TEST: &str = "child";
const FOLDER: &str = "BAILIWICK_TEST_CHILD";
const LISTENING: &str = "listening ";

/// The body of the test that is the child: serves the folder until its standard input ends. What
/// the server does differently is for `change`, before anybody is told where it listens.
pub fn serve(change: impl FnOnce(&Running)) {
    serve_with(|_| {}, change);
}

/// As [`serve`], with settings of its own.
pub fn serve_with(set: impl FnOnce(&mut ServeArgs), change: impl FnOnce(&Running)) {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut settings = settings(Path::new(&folder));
        set(&mut settings);
        let running = start(&settings).await.unwrap();
        change(&running);
        println!("{LISTENING}{}", running.address);
        std::io::stdout().flush().unwrap();
        let ended = tokio::task::spawn_blocking(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
        });
        ended.await.unwrap();
        running.stop().await;
    });
}

/// A server in a process of its own; killed when it is dropped.
pub struct ServerProcess(Child);

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl ServerProcess {
    /// Starts one on a folder, with these variables in its environment.
    pub fn spawn(folder: &Path, variables: &[(&str, String)]) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD_TEST, "--nocapture"])
            .env(FOLDER, folder)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    /// Waits until it listens; `None` if it ended instead.
    pub async fn listens(&mut self) -> Option<Api> {
        let output = BufReader::new(self.0.stdout.take().unwrap());
        let (found, address) = tokio::sync::oneshot::channel();
        // Reads on to the end: the child must always be able to print.
        std::thread::spawn(move || {
            let mut found = Some(found);
            for line in output.lines().map_while(Result::ok) {
                let Some((_, address)) = line.split_once(LISTENING) else { continue };
                if let Some(found) = found.take() {
                    let _ = found.send(address.to_owned());
                }
            }
        });
        Some(Api::new(address.await.ok()?.trim().parse().unwrap()))
    }

    /// Starts one that must come to listen.
    pub async fn start(folder: &Path, variables: &[(&str, String)]) -> (Self, Api) {
        let mut process = Self::spawn(folder, variables);
        let listens = process.listens().await;
        (process, listens.unwrap_or_else(|| panic!("the server did not start")))
    }

    /// Whether it has ended by itself.
    pub fn is_gone(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Ends it in order; whether it came to that.
    #[must_use]
    pub fn stop(mut self) -> bool {
        drop(self.0.stdin.take());
        self.0.wait().unwrap().success()
    }
}
