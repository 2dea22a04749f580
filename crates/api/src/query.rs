//! Query strings: pairs, read one by one, so that a refusal names the parameter.

use crate::error::{Failure, Result};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use hearth_control::{Direction, Error, PageRequest, StateFilter};
use std::convert::Infallible;

/// The pairs of a query string, decoded once.
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> std::result::Result<Self, Infallible> {
        let text = parts.uri.query().unwrap_or_default();
        Ok(Self(
            form_urlencoded::parse(text.as_bytes())
                .into_owned()
                .collect(),
        ))
    }
}

impl Query {
    /// The parameter's value, where it is given and not empty.
    pub(crate) fn text(&self, name: &'static str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// All entries of a parameter, which may be repeated, or hold several with
    /// commas between them.
    pub(crate) fn list(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.all(name)
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
    }

    pub(crate) fn integer(&self, name: &'static str) -> Result<Option<i64>> {
        self.text(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Failure::from(Error::invalid(
                        name,
                        format_args!("{text:?} is no whole number"),
                    ))
                })
            })
            .transpose()
    }

    /// A whole number within bounds.
    pub(crate) fn integer_within(
        &self,
        name: &'static str,
        bounds: std::ops::RangeInclusive<i64>,
    ) -> Result<Option<i64>> {
        match self.integer(name)? {
            Some(value) if !bounds.contains(&value) => Err(Error::invalid(
                name,
                format_args!(
                    "must be from {} to {}, is {value}",
                    bounds.start(),
                    bounds.end()
                ),
            )
            .into()),
            value => Ok(value),
        }
    }

    /// A time in seconds since 1970.
    pub(crate) fn unix_time(&self, name: &'static str) -> Result<Option<DateTime<Utc>>> {
        match self.integer(name)? {
            None => Ok(None),
            Some(seconds) => DateTime::from_timestamp(seconds, 0)
                .map(Some)
                .ok_or_else(|| Error::invalid(name, "is out of range").into()),
        }
    }

    /// A time as RFC 3339 writes it.
    pub(crate) fn rfc3339(&self, name: &'static str) -> Result<Option<DateTime<Utc>>> {
        match self.text(name) {
            None => Ok(None),
            // A plus sign that was sent as it is reads as a space.
            Some(text) => hearth_wire::parse_rfc3339(&text.replace(' ', "+"))
                .map(Some)
                .ok_or_else(|| {
                    Error::invalid(name, format_args!("{text:?} is no RFC 3339 time")).into()
                }),
        }
    }

    /// One of some words; `None` where it is not given.
    pub(crate) fn word<T: Copy>(
        &self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>> {
        match self.text(name) {
            None => Ok(None),
            Some(text) => Ok(Some(choose(name, text, words)?)),
        }
    }

    pub(crate) fn states(&self) -> Result<StateFilter> {
        let mut states = StateFilter {
            running: false,
            paused: false,
        };
        let mut any = false;
        for text in self.list("state") {
            any = true;
            match choose("state", text, &[("running", true), ("paused", false)])? {
                true => states.running = true,
                false => states.paused = true,
            }
        }
        Ok(if any { states } else { StateFilter::default() })
    }

    /// The parameters of every paged list.
    pub(crate) fn page(&self) -> Result<PageRequest> {
        let orders = [
            ("asc", Direction::Ascending),
            ("desc", Direction::Descending),
        ];
        Ok(PageRequest {
            direction: self.word("order", &orders)?.unwrap_or_default(),
            next_token: self.text("nextToken").map(str::to_owned),
            limit: self.integer("limit")?,
        })
    }
}

fn choose<T: Copy>(name: &str, text: &str, words: &[(&str, T)]) -> Result<T> {
    words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Error::invalid(
                name,
                format_args!("{text:?} is not one of {}", all.join(", ")),
            )
            .into()
        })
}
