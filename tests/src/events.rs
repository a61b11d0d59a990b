//! A client of the event feed: it reads server-sent events as WHATWG HTML (section 9.2.6) says.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::HeaderMap;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

use super::{Api, Call};

/// How long the next event may take.
const EVENT_LIMIT: Duration = Duration::from_secs(60);

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its own id; `None` if it has none.
    pub id: Option<String>,
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: Value,
}

/// A stream of events that is read.
pub struct EventStream {
    body: Incoming,
    buffer: Vec<u8>,
    /// The last id that was told, with an event or without one.
    pub last_id: String,
    /// The headers of the answer.
    pub headers: HeaderMap,
}

impl Api {
    /// A client of the same server that speaks HTTP/2, all over one connection.
    pub fn over_http2(&self) -> Self {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        Self { url: self.url.clone(), client }
    }
}

impl Call {
    /// Sends it, and reads events from the answer, whose first bytes are awaited.
    pub async fn events(self) -> EventStream {
        let response = timeout(EVENT_LIMIT, self.client.request(self.request.map(Full::new)));
        let response = response.await.unwrap().unwrap();
        let (head, body) = response.into_parts();
        assert_eq!(head.status, 200);
        assert_eq!(head.headers["content-type"], "text/event-stream");
        let last_id = String::new();
        let mut stream = EventStream { body, buffer: Vec::new(), last_id, headers: head.headers };
        while stream.last_id.is_empty() {
            assert!(stream.block().await.is_some(), "the stream did not begin");
        }
        stream
    }
}

impl EventStream {
    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.block().await? {
                return Some(event);
            }
        }
    }

    /// The next event of a name. Those before it are passed over.
    pub async fn named(&mut self, name: &str) -> Event {
        loop {
            match self.next().await {
                Some(event) if event.name == name => return event,
                Some(event) => assert_ne!(event.name, "closed", "before {name}: {event:?}"),
                None => panic!("the stream ended before {name}"),
            }
        }
    }

    /// The next events up to the first of a name, with it.
    pub async fn until(&mut self, name: &str) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            let event = event.unwrap_or_else(|| panic!("no {name} after {events:?}"));
            events.push(event);
            if events.last().is_some_and(|event| event.name == name) {
                return events;
            }
        }
    }

    /// The next block: an event, or something that is none.
    async fn block(&mut self) -> Option<Option<Event>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(self.read(&String::from_utf8(block).unwrap()));
            }
            let frame = timeout(EVENT_LIMIT, self.body.frame()).await.unwrap()?;
            self.buffer.extend_from_slice(frame.ok()?.data_ref().unwrap());
        }
    }

    fn read(&mut self, block: &str) -> Option<Event> {
        let (mut id, mut name, mut data) = (None, "message".to_owned(), None);
        for line in block.lines().filter(|line| !line.is_empty()) {
            let (field, value) = line.split_once(':').unwrap();
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "id" => id = Some(value),
                "event" => name = value,
                "data" => data = Some(value),
                "" | "retry" => {}
                field => panic!("an unknown field {field:?} in {block:?}"),
            }
        }
        if let Some(id) = &id {
            self.last_id.clone_from(id);
        }
        let data = serde_json::from_str(&data?).unwrap();
        Some(Event { id, name, data })
    }
}
