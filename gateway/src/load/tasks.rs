//! The scenario `tasks`: how soon a task stops that is to be stopped, when all are at once.
//!
//! A stand-in for the apps' hosts listens in this process, takes every request and answers none.
//! So many developers, each in a tenant of their own, begin as many tasks as their role allows.
//! Once every one of them waits for the stand-in, all are cancelled at the same time. A task has
//! stopped when the server has let go of its connection to the stand-in, which is where that is
//! seen. Told are the medians and 99th percentiles from the asking to that moment, and to the
//! answer.
//!
//! Deliberate limits: the server has to reach this process, so it runs on the same machine with
//! `--dev`. The generator, the stand-in and the server share the machine: the figures include that.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use hyper::Method;
use hyper::body::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::client::{Connection, Prepared, Target};
use super::probe::wire;
use super::setup::{Member, Setup};
use super::told::tell;
use super::{LoadError, progress};

/// The scenario's name.
pub(crate) const NAME: &str = "tasks";

/// Tasks of one developer: what the built-in roles allow.
const TASKS_EACH: usize = 3;
/// Developers that are made ready at the same time.
const LANES: usize = 16;
/// The longest request that the stand-in reads, in bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// How long is waited for what has to come about.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What the stand-in sees: since when a task's request is there, and when it was let go of.
#[derive(Default)]
struct Host {
    seen: Mutex<HashMap<String, Option<Instant>>>,
    changed: Notify,
}

impl Host {
    /// Begins to listen; answers the URL that leads here.
    async fn listen(self: &Arc<Self>) -> Result<String, LoadError> {
        let failed = |source| LoadError::Connect { url: "127.0.0.1:0".to_owned(), source };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let url = format!("http://{}/", listener.local_addr().map_err(failed)?);
        let host = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let host = host.clone();
                tokio::spawn(async move { host.hold(stream).await });
            }
        });
        Ok(url)
    }

    /// Reads one request, and waits until whoever sent it is gone.
    async fn hold(&self, mut stream: TcpStream) {
        let Some(task) = task_of(&mut stream).await else { return };
        self.seen.lock().insert(task.clone(), None);
        self.changed.notify_waiters();
        let mut rest = [0; 64];
        while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
        self.seen.lock().insert(task, Some(Instant::now()));
        self.changed.notify_waiters();
    }

    /// Waits until there are `count` requests that are open, or closed; answers how many there are.
    async fn until(&self, count: usize, closed: bool) -> usize {
        let fits = || {
            let seen = self.seen.lock();
            seen.values().filter(|at| at.is_some() == closed).count()
        };
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if fits() >= count {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(WAIT_MAX, waiting).await;
        fits()
    }
}

/// The task that a request to the stand-in is a step of.
async fn task_of(stream: &mut TcpStream) -> Option<String> {
    let (mut bytes, mut part) = (Vec::new(), [0; 4_096]);
    while bytes.len() < REQUEST_BYTES_MAX {
        let count = stream.read(&mut part).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&part[..count]);
        let body = bytes.windows(4).position(|it| it == b"\r\n\r\n").map(|end| &bytes[end + 4..]);
        if let Some(body) = body.and_then(|it| serde_json::from_slice::<Value>(it).ok()) {
            return body["task_id"].as_str().map(str::to_owned);
        }
    }
    None
}

async fn ask(target: &Target, path: &str, request: Prepared) -> Result<Value, LoadError> {
    let opened = Connection::open(target).await;
    let mut connection = opened.map_err(|error| wire(path, error))?;
    let answer = connection.exchange(request, true).await;
    let answer = answer.map_err(|_| wire(path, "the connection broke"))?;
    let problem = || String::from_utf8_lossy(&answer.body).into_owned();
    if !answer.status.is_success() {
        let status = answer.status.as_u16();
        return Err(LoadError::Refused { path: path.to_owned(), status, problem: problem() });
    }
    Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
}

fn document(app: &str) -> Value {
    let code = json!({ "kind": "code", "module": "main", "entry": "wait" });
    let wait = json!({
        "name": "wait", "action_type": "write", "background": true, "params_schema": {},
        "impl": code,
    });
    json!({
        "ir_version": "1.0",
        "app": { "id": app, "version": "1.0.0", "title": "Waiting", "functions": [wait] },
    })
}

/// Makes a developer with an app that the stand-in carries out, and begins their tasks.
async fn begin(
    setup: &Setup,
    target: &Target,
    (member, url, count): (Member, &str, usize),
) -> Result<(Member, Vec<String>), LoadError> {
    let app = setup.unique("load-wait");
    let developer = json!({ "nickname": setup.unique("load") });
    setup.post(&member, "/v1/developer/register", &developer).await?;
    let named = json!({
        "app_id": app, "display_name": "Waiting", "git_url": "https://example.com/app.git",
    });
    setup.post(&member, "/v1/developer/apps", &named).await?;
    let params = json!({ "app_id": app, "ir_dict": document(&app) });
    let deploy = json!({ "function": "deploy_ir", "params": params });
    setup.post(&member, "/v1/extensions/developer/call", &deploy).await?;
    let path = format!("/v1/developer/apps/{app}/host");
    let body = Some(Bytes::from(json!({ "host_url": url }).to_string()));
    let put = setup.member_request(Method::PUT, &path, &member.token, body)?;
    ask(target, &path, put).await?;
    let mut tasks = Vec::with_capacity(count);
    for _ in 0..count {
        let path = format!("/v1/extensions/{app}/call");
        let answer = setup.post(&member, &path, &json!({ "function": "wait" })).await?;
        let missing = || LoadError::Answer { path: path.clone(), field: "data.task_id" };
        tasks.push(answer["data"]["task_id"].as_str().ok_or_else(missing)?.to_owned());
    }
    Ok((member, tasks))
}

/// What became of one stop.
struct Stop {
    task: String,
    asked: Instant,
    answered: Duration,
    outcome: Result<String, String>,
}

async fn stop(target: &Target, task: String, connection: (Connection, Prepared)) -> Stop {
    let (mut connection, request) = connection;
    let asked = Instant::now();
    let answer = connection.exchange(request, true).await;
    let answered = asked.elapsed();
    let outcome = match answer {
        Ok(answer) => {
            let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let text = || String::from_utf8_lossy(&answer.body).into_owned();
            body["status"].as_str().map(str::to_owned).ok_or_else(text)
        }
        Err(_) => Err(format!("{target:?}: the connection broke")),
    };
    Stop { task, asked, answered, outcome }
}

/// Runs the scenario and prints what it found.
pub(crate) async fn run(
    setup: &Setup,
    target: &Target,
    json: Option<&Path>,
) -> Result<(), LoadError> {
    let (count, host) = (setup.tasks(), Arc::new(Host::default()));
    let url = host.listen().await?;
    let developers = count.div_ceil(TASKS_EACH);
    progress::say(&format!("making {developers} developers, each with an app and a tenant"));
    let members = setup.register_members(developers).await?;
    let parts = members.into_iter().enumerate().map(|(number, member)| {
        let each = TASKS_EACH.min(count - number * TASKS_EACH);
        begin(setup, target, (member, &url, each))
    });
    let begun: Vec<(Member, Vec<String>)> =
        stream::iter(parts).buffer_unordered(LANES).try_collect().await?;
    let open = host.until(count, false).await;
    progress::say(&format!("{open} of {count} tasks wait for the stand-in; all are cancelled now"));
    let each = begun.iter().flat_map(|(member, tasks)| tasks.iter().map(move |it| (member, it)));
    let ready = each.map(|(member, task)| async move {
        let path = format!("/v1/tasks/{task}/cancel");
        let body = Some(Bytes::from_static(b"{}"));
        let request = setup.member_request(Method::POST, &path, &member.token, body)?;
        let opened = Connection::open(target).await.map_err(|error| wire(&path, error))?;
        Ok::<_, LoadError>((task.clone(), (opened, request)))
    });
    let ready = try_join_all(ready).await?;
    let stops = ready.into_iter().map(|(task, connection)| stop(target, task, connection));
    let stops = join_all(stops).await;
    host.until(open, true).await;
    let held = begun.iter().map(|(member, _)| async move {
        let path = "/v1/billing/holds";
        let request = setup.member_request(Method::GET, path, &member.token, None)?;
        Ok::<_, LoadError>(ask(target, path, request).await?.as_array().map_or(0, Vec::len))
    });
    let held: Vec<usize> = stream::iter(held).buffer_unordered(LANES).try_collect().await?;
    let found = Found::new(open, held.iter().sum(), &stops, &host.seen.lock());
    tell(&found.table(), &found.json(), json).await?;
    match found.stopped.len() {
        0 => Err(LoadError::NoSuccess { scenario: NAME }),
        _ => Ok(()),
    }
}

struct Found {
    tasks: usize,
    /// Those that the stand-in had when all were cancelled.
    open: usize,
    cancelled: usize,
    /// Holds that are left.
    held: usize,
    /// From the asking to the connection's end, in order.
    stopped: Vec<Duration>,
    /// From the asking to the answer, in order.
    answered: Vec<Duration>,
    problem: Option<String>,
}

/// A quantile of what is in order, in milliseconds; 0 of nothing.
fn quantile(sorted: &[Duration], quantile: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1) as f64 * quantile).round() as usize;
    sorted.get(at).map_or(0.0, |it| it.as_secs_f64() * 1_000.0)
}

impl Found {
    fn new(
        open: usize,
        held: usize,
        stops: &[Stop],
        seen: &HashMap<String, Option<Instant>>,
    ) -> Self {
        let is_cancelled = |stop: &&Stop| stop.outcome.as_deref() == Ok("cancelled");
        let ended = |stop: &Stop| Some(seen.get(&stop.task)?.as_ref()?.duration_since(stop.asked));
        let mut stopped: Vec<Duration> = stops.iter().filter_map(ended).collect();
        let mut answered: Vec<Duration> = stops.iter().map(|stop| stop.answered).collect();
        stopped.sort_unstable();
        answered.sort_unstable();
        let problem = stops.iter().find(|stop| !is_cancelled(stop));
        let problem = problem.map(|stop| match &stop.outcome {
            Ok(state) => format!("a task is {state}"),
            Err(problem) => problem.clone(),
        });
        let cancelled = stops.iter().filter(is_cancelled).count();
        Self { tasks: stops.len(), open, cancelled, held, stopped, answered, problem }
    }

    fn table(&self) -> String {
        let Self { tasks, open, cancelled, held, stopped, answered, problem } = self;
        let line = |what: &str, times: &[Duration]| {
            let [median, p99, last] = [0.5, 0.99, 1.0].map(|at| quantile(times, at));
            format!("{what:<22} {median:>9.1} ms {p99:>9.1} ms {last:>9.1} ms\n")
        };
        let mut table = format!(
            "{NAME}: {tasks} tasks, {open} of them at the stand-in; {cancelled} cancelled, \
             {} let go of, {held} holds left\n{:<22} {:>12} {:>12} {:>12}\n",
            stopped.len(),
            "from the asking to",
            "p50",
            "p99",
            "the last"
        );
        table.push_str(&line("the run's stop", stopped));
        table.push_str(&line("the answer", answered));
        if let Some(problem) = problem {
            table.push_str(&format!("one that was not cancelled: {problem}\n"));
        }
        table
    }

    fn json(&self) -> Value {
        let times = |times: &[Duration]| {
            json!({ "p50_ms": quantile(times, 0.5), "p99_ms": quantile(times, 0.99),
                "last_ms": quantile(times, 1.0), "count": times.len() })
        };
        json!({
            "scenario": NAME, "tasks": self.tasks, "open": self.open, "cancelled": self.cancelled,
            "holds_left": self.held, "stop": times(&self.stopped), "answer": times(&self.answered),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_counts_stops_by_what_the_stand_in_saw() {
        let asked = Instant::now();
        let stop = |task: &str, outcome: Result<&str, &str>| Stop {
            task: task.to_owned(),
            asked,
            answered: Duration::from_millis(9),
            outcome: outcome.map(str::to_owned).map_err(str::to_owned),
        };
        let stops =
            [stop("a", Ok("cancelled")), stop("b", Ok("cancelled")), stop("c", Ok("failed"))];
        let at = |ms| Some(asked + Duration::from_millis(ms));
        let seen = HashMap::from(
            [("a", at(1)), ("b", at(3)), ("c", None)].map(|(task, at)| (task.to_owned(), at)),
        );
        let found = Found::new(3, 0, &stops, &seen);
        assert_eq!((found.tasks, found.cancelled, found.stopped.len()), (3, 2, 2));
        assert!((quantile(&found.stopped, 1.0) - 3.0).abs() < 0.001);
        assert!(found.table().contains("a task is failed"), "{}", found.table());
        assert_eq!(found.json()["stop"]["count"], 2);
        assert!(quantile(&[], 0.5) < 0.001);
    }
}
