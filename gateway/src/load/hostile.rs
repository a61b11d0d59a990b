//! The scenario `hostile-hosts`: what apps whose own hosts hang, drip, answer garbage or break off
//! do to an app whose host is well.
//!
//! All hosts are served here, on loopback, so the server has to be started with `--dev`. The well
//! app is called at a fixed pace, first alone, then while the connections call the hostile apps,
//! one app a mood, each again a moment after it was answered. Told are the well app's medians and
//! 99th percentiles, how many times as long the second ones are, what the hostile calls were
//! answered, and how many calls of the well app reached its host.
//!
//! Deliberate limits: the hosts, the generator and the server share one machine; the hostile hosts
//! cost little, for they mostly wait. A hostile call that is still open at the end is not counted.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout_at};

use super::LoadError;
use super::client::{Connection, Prepared, Target};
use super::contrast::{self, Ends, contrast, sum};
use super::probe::{self, Pair, wire};
use super::runner::Profile;
use super::scenario::{self, Hosted};
use super::setup::Setup;
use super::told::tell;

/// The scenario's name.
pub(crate) const NAME: &str = "hostile-hosts";

/// What the load is called.
const LOAD: &str = "hostile";
/// The time between two bytes of a host that drips, in milliseconds.
const DRIP_MILLIS: u64 = 1_000;
/// How long a connection rests after an answer, in milliseconds: a flood is another scenario.
const REST_MILLIS: u64 = 250;
/// How long a connection that could not be opened again rests, in milliseconds.
const RECONNECT_MILLIS: u64 = 50;
/// Bytes of a request to a host here; further ones end the connection.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// How a host treats a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// It answers.
    Well,
    /// It takes the request and never answers.
    Hangs,
    /// It answers with a byte now and then.
    Drips,
    /// It answers with what is no HTTP.
    Garbage,
    /// It breaks the connection.
    Resets,
}

const HOSTILE: [Mood; 4] = [Mood::Hangs, Mood::Drips, Mood::Garbage, Mood::Resets];

/// A host that is served here until the process ends.
struct Host {
    url: String,
    /// Requests that it has taken.
    taken: Arc<AtomicU64>,
}

impl Host {
    async fn serve(mood: Mood) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/call", listener.local_addr()?);
        let taken: Arc<AtomicU64> = Arc::default();
        let count = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                // How a connection to a hostile host ends is nobody's concern here.
                tokio::spawn(async move { drop(treat(stream, mood, &count).await) });
            }
        });
        Ok(Self { url, taken })
    }
}

/// Takes requests on one connection, and treats each by the mood.
async fn treat(mut stream: TcpStream, mood: Mood, taken: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while take(&mut stream).await? {
        taken.fetch_add(1, Ordering::Relaxed);
        match mood {
            Mood::Well => {
                let body = r#"{"result": {"well": true}}"#;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                     \r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await?;
            }
            Mood::Hangs => return std::future::pending().await,
            Mood::Drips => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n").await?;
                loop {
                    stream.write_all(b" ").await?;
                    sleep(Duration::from_millis(DRIP_MILLIS)).await;
                }
            }
            Mood::Garbage => {
                stream.write_all(b"\x7fELF not a status line\r\n\r\n").await?;
                return Ok(());
            }
            Mood::Resets => return Ok(()),
        }
    }
    Ok(())
}

/// Reads one request to its end; false when there is none.
async fn take(stream: &mut TcpStream) -> io::Result<bool> {
    let (mut bytes, mut part) = (Vec::new(), [0; 4_096]);
    while bytes.len() <= REQUEST_BYTES_MAX {
        let count = stream.read(&mut part).await?;
        if count == 0 {
            return Ok(false);
        }
        bytes.extend_from_slice(&part[..count]);
        let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|it| it.trim().parse().ok()).unwrap_or_default();
        if bytes.len() >= end + 4 + length {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The app with the one function `run`, which is its host's.
fn document(app_id: &str) -> Value {
    json!({"ir_version": "1.0", "app": {"id": app_id, "version": "1.0.0", "title": "Hosted",
        "functions": [{"name": "run", "action_type": "write", "params_schema": {},
            "impl": {"kind": "code", "module": "main", "entry": "run"}}]}})
}

/// Deploys an app on a host of this mood; answers a call of it.
async fn deploy(
    setup: &Setup,
    target: &Target,
    mood: Mood,
) -> Result<(Prepared, Arc<AtomicU64>), LoadError> {
    let host = Host::serve(mood).await.map_err(|error| wire("a host on loopback", error))?;
    let Hosted { app_id, owner } = scenario::deploy(setup, document).await?;
    let path = format!("/v1/developer/apps/{app_id}/host");
    let body = Bytes::from(json!({"host_url": host.url}).to_string());
    let set = setup.member_request(Method::PUT, &path, &owner.token, Some(body))?;
    let mut connection = Connection::open(target).await.map_err(|error| wire(&path, error))?;
    let answer = connection.exchange(set, true).await;
    let answer = answer.map_err(|_| wire(&path, "the connection broke"))?;
    if !answer.status.is_success() {
        let problem = String::from_utf8_lossy(&answer.body).into_owned();
        return Err(LoadError::Refused { path, status: answer.status.as_u16(), problem });
    }
    let call = json!({"user_id": owner.user_id, "tenant_id": owner.tenant_id, "function": "run"});
    let path = format!("/v1/extensions/{app_id}/call");
    let body = Some(Bytes::from(call.to_string()));
    let call = setup.member_request(Method::POST, &path, &owner.token, body)?;
    Ok((call, host.taken))
}

/// What became of calls: how many, by the beginning of the error that they were answered.
type Answers = Ends<String>;

/// Calls one hostile app on one connection until `end`.
async fn press(target: &Target, call: &Prepared, end: Instant) -> Answers {
    let (mut answers, mut connection) = (Answers::new(), None);
    while Instant::now() < end {
        let Some(open) = &mut connection else {
            connection = Connection::open(target).await.ok();
            if connection.is_none() {
                sleep(Duration::from_millis(RECONNECT_MILLIS)).await;
            }
            continue;
        };
        let Ok(answer) = timeout_at(end.into(), open.exchange(call.clone(), true)).await else {
            break;
        };
        let what = match &answer {
            Ok(answer) => kind_of(answer.status.as_u16(), &answer.body),
            Err(_) => "no answer".to_owned(),
        };
        *answers.entry(what).or_default() += 1;
        if answer.is_err() {
            connection = None;
        }
        sleep(Duration::from_millis(REST_MILLIS)).await;
    }
    answers
}

fn kind_of(status: u16, body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = body["error"].as_str().unwrap_or(if status == 200 { "success" } else { "?" });
    let kind = match text {
        text if text.contains("keeps failing") => "circuit open",
        text if text.contains("wait for its host") => "busy",
        text if text.contains("in time") => "out of time",
        text if text.contains("broke") => "broken",
        text => text,
    };
    if status == 200 { kind.to_owned() } else { format!("{status} {kind}") }
}

/// Runs the scenario and prints what it found.
pub(crate) async fn run(
    setup: &Setup,
    target: &Target,
    profile: &Profile,
    json: Option<&Path>,
) -> Result<(), LoadError> {
    let (well, reached) = deploy(setup, target, Mood::Well).await?;
    let mut hostile = Vec::with_capacity(HOSTILE.len());
    for mood in HOSTILE {
        hostile.push(deploy(setup, target, mood).await?.0);
    }
    let probes = [("call", well)];
    let connections = profile.connections;
    let pressing = async |end| {
        let before = reached.load(Ordering::Relaxed);
        let presses =
            (0..connections).map(|number| press(target, &hostile[number % hostile.len()], end));
        (sum(join_all(presses).await), before)
    };
    let (pairs, (answers, before)) = contrast(target, &probes, profile, pressing).await?;
    let reached = reached.load(Ordering::Relaxed) - before;
    let found = Found { pairs, answers, reached };
    tell(&found.table(), &found.json(), json).await?;
    match found.answers.is_empty() {
        true => Err(wire("the hostile apps", "not one call of them was answered")),
        false => Ok(()),
    }
}

struct Found {
    pairs: Vec<Pair>,
    answers: Answers,
    /// Calls of the well app that its host took beside the hostile ones.
    reached: u64,
}

impl Found {
    fn table(&self) -> String {
        let answers = self.answers.iter().map(|(what, count)| format!("{what}: {count}"));
        let answers = answers.collect::<Vec<_>>().join(", ");
        let head = format!(
            "{NAME}: hostile calls ended as {answers}; the well host took {} calls beside them\n",
            self.reached
        );
        head + &probe::table(LOAD, &self.pairs)
    }

    fn json(&self) -> Value {
        json!({
            "scenario": NAME, "hostile_answers": self.answers, "well_calls_taken": self.reached,
            "p99": contrast::json(LOAD, &self.pairs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a host of this mood sends within a moment.
    async fn sent(mood: Mood) -> (Vec<u8>, bool) {
        let host = Host::serve(mood).await.unwrap();
        let address = host.url.strip_prefix("http://").unwrap().strip_suffix("/call").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"POST /call HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(request).await.unwrap();
        let (mut bytes, mut part) = (Vec::new(), [0; 1_024]);
        let reading = async {
            loop {
                match stream.read(&mut part).await {
                    Ok(count) if count > 0 => bytes.extend_from_slice(&part[..count]),
                    _ => return,
                }
            }
        };
        let is_over = tokio::time::timeout(Duration::from_millis(300), reading).await.is_ok();
        assert_eq!(host.taken.load(Ordering::Relaxed), 1, "{mood:?}");
        (bytes, is_over)
    }

    #[tokio::test]
    async fn each_host_is_as_its_mood() {
        let (well, is_over) = sent(Mood::Well).await;
        assert!(well.starts_with(b"HTTP/1.1 200") && !is_over);
        assert_eq!(sent(Mood::Hangs).await, (Vec::new(), false));
        let (drips, is_over) = sent(Mood::Drips).await;
        assert!(drips.len() < 100 && !is_over);
        let (garbage, is_over) = sent(Mood::Garbage).await;
        assert!(!garbage.starts_with(b"HTTP") && is_over);
        assert_eq!(sent(Mood::Resets).await, (Vec::new(), true));
    }
}
