//! Requests: redirects that stay secure, patience with servers, and faults that say whether to try again.

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};

use super::checksum::Checksum;
use super::registry::is_secure;
use crate::Error;

/// Redirects that are followed.
const MOST_HOPS: usize = 10;
/// How long a server may take to say that it is there.
const LONGEST_CONNECT: Duration = Duration::from_secs(10);
/// How long a server may ask us to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Larger lists of checksums are none.
const LONGEST_LIST: usize = 4 << 20;

/// Why something did not come.
#[derive(Debug)]
pub(super) enum Fault {
    /// Trying again may help; the server may have said when.
    Passing(String, Option<Duration>),
    /// There is no connection.
    Unreachable(String),
    /// The address has another file than the one whose beginning is here.
    Changed,
    /// Trying again does not help, another address may.
    Refused(String),
    /// Nothing to do with the server: files of this machine.
    Local(Error),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Local(error.into())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

impl From<reqwest::Error> for Fault {
    fn from(error: reqwest::Error) -> Self {
        // The address stands beside every fault already; the last cause says most.
        let error = error.without_url();
        let cause = last_cause(&error);
        match () {
            () if error.is_connect() => Self::Unreachable(format!("no connection ({cause})")),
            () if error.is_timeout() => Self::Passing("the server is silent".into(), None),
            () => Self::Passing(format!("the connection broke ({cause})"), None),
        }
    }
}

/// An answer of the server with a body still to come.
pub(super) struct Answer {
    pub(super) response: Response,
    /// What the server says of the whole file (the Hugging Face hub, before it redirects).
    pub(super) checksum: Option<Checksum>,
}

/// Who asks.
pub(super) struct Client {
    http: reqwest::Client,
    attempts: u32,
    pause: Duration,
}

impl Client {
    /// `attempts`: how often in a row something may fail; `pause`: how long to wait after the first time, and twice as long
    /// after every other; `silence`: how long a server may say nothing.
    pub(super) fn new(attempts: u32, pause: Duration, silence: Duration) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("peptalk/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            // Parallel ranges are to be parallel connections.
            .http1_only()
            .connect_timeout(LONGEST_CONNECT)
            .read_timeout(silence)
            // A file that is packed for the way would have other lengths.
            .default_headers(HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]))
            .build()
            .map_err(|error| {
                Error::Io(std::io::Error::other(format!(
                    "nothing can be fetched over https: {}\nhint: install certificates (the package ca-certificates), \
                     or name a file of them in SSL_CERT_FILE",
                    last_cause(&error)
                )))
            })?;
        Ok(Self { http, attempts, pause })
    }

    /// Asks for an address, through redirects. The answer is a success or a "range not satisfiable".
    pub(super) async fn get(&self, address: &str, headers: &HeaderMap) -> Result<Answer, Fault> {
        let bad = |error| Fault::Refused(format!("no address ({error})"));
        let mut url = Url::parse(address).map_err(bad)?;
        let mut checksum = None;
        for _ in 0..=MOST_HOPS {
            if !is_secure(&url) {
                return Err(Fault::Refused(format!("leads to {url}, which is not https")));
            }
            let response = self.http.get(url.clone()).headers(headers.clone()).send().await?;
            let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
            checksum = checksum.or(header("x-linked-etag").and_then(Checksum::of_header));
            let status = response.status();
            match (status.is_redirection(), header(LOCATION.as_str())) {
                (true, Some(place)) => url = url.join(place).map_err(bad)?,
                _ if header(CONTENT_TYPE.as_str()).is_some_and(|kind| kind.starts_with("text/html"))
                    && status.is_success() =>
                {
                    return Err(Fault::Refused("is a page for people, not the file".into()));
                }
                _ if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => {
                    return Ok(Answer { response, checksum });
                }
                _ => return Err(fault_of(status, header(RETRY_AFTER.as_str()))),
            }
        }
        Err(Fault::Refused(format!("more than {MOST_HOPS} redirects")))
    }

    /// A short text.
    pub(super) async fn text(&self, address: &str) -> Result<String, Fault> {
        let mut patience = self.patience();
        loop {
            match self.short(address).await {
                Ok(text) => return Ok(text),
                Err(fault) => patience.after(fault).await?,
            }
        }
    }

    async fn short(&self, address: &str) -> Result<String, Fault> {
        let mut response = self.get(address, &HeaderMap::new()).await?.response;
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            text.extend_from_slice(&chunk);
            if text.len() > LONGEST_LIST {
                return Err(Fault::Refused("is too long for a list of checksums".into()));
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Patience that nothing has tried yet.
    pub(super) fn patience(&self) -> Patience {
        Patience { failed: 0, attempts: self.attempts, pause: self.pause }
    }
}

fn last_cause(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.last().map_or_else(String::new, ToString::to_string)
}

/// What a status that is no success means.
fn fault_of(status: StatusCode, retry_after: Option<&str>) -> Fault {
    let wait = retry_after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    if status.is_server_error() || again.contains(&status) {
        return Fault::Passing(status.to_string(), wait.map(|wait| wait.min(LONGEST_WAIT)));
    }
    Fault::Refused(status.to_string())
}

/// How often something may still fail in a row.
pub(super) struct Patience {
    failed: u32,
    attempts: u32,
    pause: Duration,
}

impl Patience {
    /// Waits after a fault that may pass; gives any other back, and the last of too many.
    pub(super) async fn after(&mut self, fault: Fault) -> Result<(), Fault> {
        let Fault::Passing(why, wait) = fault else { return Err(fault) };
        self.failed += 1;
        if self.failed >= self.attempts {
            return Err(Fault::Refused(format!("{why}, {} times", self.failed)));
        }
        tracing::info!("{why}; trying again");
        tokio::time::sleep(wait.unwrap_or(self.pause * 2u32.saturating_pow(self.failed - 1))).await;
        Ok(())
    }

    /// Something came.
    pub(super) fn renew(&mut self) {
        self.failed = 0;
    }
}
