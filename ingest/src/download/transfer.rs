//! One file from one address: by parallel ranges where the server knows them, gone on with where an earlier try ended.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::Path;

use futures::future::try_join_all;
use indicatif::ProgressBar;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Response, StatusCode};

use super::Options;
use super::http::{Answer, Client, Fault};
use super::part::{Part, State};
use super::record::Record;

/// One file from one address.
pub(super) struct Transfer<'a> {
    client: &'a Client,
    options: &'a Options,
    address: &'a str,
    /// Where the file shall lie.
    place: &'a Path,
    bar: &'a ProgressBar,
    /// Whether anything has come in this run.
    came: Cell<bool>,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(
        client: &'a Client,
        options: &'a Options,
        address: &'a str,
        place: &'a Path,
        bar: &'a ProgressBar,
    ) -> Self {
        Self { client, options, address, place, bar, came: Cell::new(false) }
    }

    /// Fetches what is missing of the file. `None`: the server still has the one that `known` tells of.
    pub(super) async fn run(&self, known: Option<&Record>) -> Result<Option<Part>, Fault> {
        let fetched = match Part::resume(self.place, self.address)? {
            Some(part) => {
                tracing::info!("{}: {} bytes are here, going on", self.place.display(), part.state.bytes());
                self.ranges(part, None).await.map(Some)
            }
            None => self.begin(known).await,
        };
        if !matches!(fetched, Err(Fault::Changed)) {
            return fetched;
        }
        tracing::warn!("{}: the server has another version now, beginning anew", self.place.display());
        match self.begin(known).await {
            // Several servers behind one name may each have their own idea of the version.
            Err(Fault::Changed) => self.whole(None).await.map(Some),
            fetched => fetched,
        }
    }

    fn piece_bytes(&self) -> u64 {
        self.options.piece_bytes.max(1)
    }

    async fn begin(&self, known: Option<&Record>) -> Result<Option<Part>, Fault> {
        let mut patience = self.client.patience();
        let Answer { response, checksum } = loop {
            match self.client.get(self.address, &range(0, self.piece_bytes())).await {
                Ok(answer) => break answer,
                Err(fault) => patience.after(fault).await?,
            }
        };
        let (validator, length) = (validator(response.headers()), response.content_length());
        let ranged = match (response.status(), content_range(response.headers())) {
            (StatusCode::PARTIAL_CONTENT, Some((0, total))) => Some(total),
            (StatusCode::PARTIAL_CONTENT, _) => return Err(Fault::Refused("sends another range".into())),
            (StatusCode::RANGE_NOT_SATISFIABLE, _) => return Err(Fault::Refused("is empty".into())),
            _ => None,
        };
        let same = |known: &Record| {
            validator.is_some() && known.validator == validator && Some(known.bytes) == ranged.or(length)
        };
        if known.is_some_and(same) {
            return Ok(None);
        }
        let Some(total) = ranged else {
            return self.whole(Some(Answer { response, checksum })).await.map(Some);
        };
        let state = State::new(self.address, validator, Some(total), checksum.as_ref());
        self.ranges(Part::begin(self.place, state)?, Some(response)).await.map(Some)
    }

    /// The whole file in one stream, from a server that knows no ranges.
    async fn whole(&self, answer: Option<Answer>) -> Result<Part, Fault> {
        let (mut patience, mut answer) = (self.client.patience(), answer);
        loop {
            match self.stream(answer.take()).await {
                Ok(part) => return Ok(part),
                Err(fault) => patience.after(fault).await?,
            }
        }
    }

    async fn stream(&self, answer: Option<Answer>) -> Result<Part, Fault> {
        let answer = match answer {
            Some(answer) => answer,
            None => self.client.get(self.address, &HeaderMap::new()).await?,
        };
        let Answer { mut response, checksum } = answer;
        self.bar.set_length(response.content_length().unwrap_or(0));
        self.bar.set_position(0);
        let state = State::new(self.address, validator(response.headers()), None, checksum.as_ref());
        let (mut part, mut at) = (Part::begin(self.place, state)?, 0);
        while let Some(bytes) = response.chunk().await? {
            part.write(at, &bytes)?;
            at += bytes.len() as u64;
            self.bar.set_position(at);
        }
        if at == 0 { Err(Fault::Refused("is empty".into())) } else { Ok(part) }
    }

    /// All that is missing, in pieces, over several connections; `first` is the answer that brings the first of them.
    async fn ranges(&self, part: Part, first: Option<Response>) -> Result<Part, Fault> {
        self.bar.set_length(part.state.total.unwrap_or(0));
        self.bar.set_position(part.state.bytes());
        let pieces = RefCell::new(VecDeque::from(part.state.missing(self.piece_bytes())));
        let (part, first) = (RefCell::new(part), Cell::new(first));
        let connection = async || {
            loop {
                let Some((begin, end)) = pieces.borrow_mut().pop_front() else { return Ok(()) };
                self.piece(&part, begin, end, first.take()).await?;
            }
        };
        let done: Result<Vec<()>, Fault> =
            try_join_all((0..self.options.connections.max(1)).map(|_| connection())).await;
        let mut part = part.into_inner();
        let noted = part.note();
        done?;
        noted?;
        Ok(part)
    }

    async fn piece(
        &self,
        part: &RefCell<Part>,
        begin: u64,
        end: u64,
        mut answer: Option<Response>,
    ) -> Result<(), Fault> {
        let (mut at, mut patience) = (begin, self.client.patience());
        while at < end {
            let before = at;
            let fault = self.stretch(part, &mut at, end, answer.take()).await.err();
            if at > before {
                patience.renew();
            }
            match fault {
                None => {}
                // A server that has answered will do so again.
                Some(Fault::Unreachable(why)) if self.came.get() => {
                    patience.after(Fault::Passing(why, None)).await?;
                }
                Some(fault) => patience.after(fault).await?,
            }
        }
        Ok(())
    }

    /// As much of a piece as one answer brings.
    async fn stretch(
        &self,
        part: &RefCell<Part>,
        at: &mut u64,
        end: u64,
        answer: Option<Response>,
    ) -> Result<(), Fault> {
        let mut response = match answer {
            Some(response) => response,
            None => self.range(part, *at, end).await?,
        };
        let begin = *at;
        while let Some(bytes) = response.chunk().await? {
            let next = *at + bytes.len() as u64;
            if next > end {
                return Err(Fault::Refused("sends more than it was asked for".into()));
            }
            part.borrow_mut().write(*at, &bytes)?;
            self.came.set(true);
            self.bar.inc(bytes.len() as u64);
            *at = next;
        }
        if *at == begin { Err(Fault::Passing("nothing came".into(), None)) } else { Ok(()) }
    }

    /// Asks for bytes of the version that is here.
    async fn range(&self, part: &RefCell<Part>, begin: u64, end: u64) -> Result<Response, Fault> {
        let State { validator: version, total, .. } = part.borrow().state.clone();
        let mut headers = range(begin, end);
        if let Some(Ok(version)) = version.as_deref().map(HeaderValue::from_str) {
            headers.insert(IF_RANGE, version);
        }
        let response = self.client.get(self.address, &headers).await?.response;
        let got = content_range(response.headers());
        let is_same = response.status() == StatusCode::PARTIAL_CONTENT
            && validator(response.headers()) == version
            && got.is_some_and(|(from, of)| from == begin && Some(of) == total);
        if is_same { Ok(response) } else { Err(Fault::Changed) }
    }
}

fn range(begin: u64, end: u64) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("bytes={begin}-{}", end - 1));
    HeaderMap::from_iter(value.ok().map(|value| (RANGE, value)))
}

/// What makes a version: an ETag, unless it is weak, or the time of the last change.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text =
        |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
    text(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED))
}

/// First byte and size of the whole file, of `bytes 0-96/1000`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let (range, total) =
        headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_ranges_are_read() {
        let of = |name, value| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        assert_eq!(content_range(&of(CONTENT_RANGE, "bytes 7-96/1000")), Some((7, 1000)));
        assert_eq!(content_range(&of(CONTENT_RANGE, "bytes 7-96/*")), None);
        assert_eq!(content_range(&of(CONTENT_RANGE, "bytes */1000")), None);
        assert_eq!(range(0, 97)[RANGE], "bytes=0-96");
        assert_eq!(validator(&of(ETAG, "\"a\"")).as_deref(), Some("\"a\""));
        assert_eq!(validator(&of(ETAG, "W/\"a\"")), None);
    }
}
