//! From a reference to verified layers on disk.
//!
//! Nothing is believed before its digest fits: the manifest by the reference's
//! digest where it has one, everything else by the manifest. A layer that stalls
//! is asked for again from where it stopped; one that is longer than the
//! manifest says is given up at that byte.

use crate::{
    Credentials, Error, Reference, Registries, auth,
    client::{Elsewhere, Http, MAX_ANSWER, message},
    login::Login,
    reference::is_digest,
};
use bytes::Bytes;
use hearth_util::{LockExt as _, chain};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{path::Path, sync::Mutex};
use tokio::io::AsyncWriteExt;

const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";
const MAX_LAYERS: usize = 256;
/// How often a layer is asked for again that stopped half-way.
const ATTEMPTS: usize = 4;
const DEFAULT_HOST: &str = "registry-1.docker.io";

/// Reads images.
#[derive(Clone)]
pub struct Client {
    http: Http,
    registries: Registries,
}

/// An image whose manifest and configuration were read and verified.
#[derive(Debug)]
pub struct Image {
    /// Of the manifest; says everything about the image's content.
    pub digest: String,
    /// `NAME=value`, as the image's author set them.
    pub env: Vec<String>,
    /// From the lowest to the topmost.
    pub layers: Vec<Layer>,
    place: Place,
}

/// A layer as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Of the compressed bytes: algorithm, colon, hexadecimal digits.
    pub digest: String,
    /// Compressed, in bytes.
    pub size: u64,
}

/// Where an image was found, and what lets us in there.
#[derive(Debug)]
struct Place {
    host: String,
    /// Up to the repository, such as `https://host/v2/library/debian`.
    url: String,
    image: Reference,
    login: Option<Login>,
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    config: Option<Runtime>,
}

#[derive(Debug, Deserialize)]
struct Runtime {
    #[serde(default, rename = "Env")]
    env: Option<Vec<String>>,
}

impl Client {
    /// # Errors
    /// When the configured certificates cannot be read.
    pub fn new(registries: &Registries) -> Result<Self, Error> {
        Ok(Self {
            http: Http::new(registries)?,
            registries: registries.clone(),
        })
    }

    /// The same, less patient with silence.
    #[cfg(test)]
    pub(crate) fn with_silence(mut self, silence: std::time::Duration) -> Self {
        self.http = self.http.with_silence(silence);
        self
    }

    /// Finds an image: at the registry's mirrors, then at the registry.
    ///
    /// # Errors
    /// That of the last place asked.
    pub async fn resolve(
        &self,
        image: &Reference,
        credentials: &Credentials,
    ) -> Result<Image, Error> {
        for mirror in &self.registries.mirrors {
            if mirror.registry != "*" && mirror.registry != image.registry {
                continue;
            }
            let found = async {
                let login = Login::at_mirror(mirror).await?;
                self.read(self.place(&mirror.location, image, login)).await
            };
            match found.await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    tracing::debug!(mirror = mirror.location, error = %chain(&error), "resolve image at mirror failed");
                }
            }
        }
        let host = match image.registry.as_str() {
            "docker.io" => DEFAULT_HOST,
            host => host,
        };
        let login = Login::of(credentials, &self.registries, &self.http).await?;
        self.read(self.place(host, image, login)).await
    }

    fn place(&self, location: &str, image: &Reference, login: Option<Login>) -> Place {
        let (host, path) = location.split_once('/').unwrap_or((location, ""));
        let insecure = self.registries.insecure.iter().any(|known| known == host);
        let scheme = if insecure { "http" } else { "https" };
        let path = match path.trim_matches('/') {
            "" => image.repository.clone(),
            path => format!("{path}/{}", image.repository),
        };
        Place {
            url: format!("{scheme}://{host}/v2/{path}"),
            host: host.to_owned(),
            image: Reference {
                repository: path,
                ..image.clone()
            },
            login,
            authorization: Mutex::default(),
        }
    }

    async fn read(&self, place: Place) -> Result<Image, Error> {
        let mut version = place.image.version().to_owned();
        let mut manifest = None;
        // An index, and then the manifest that it names.
        for _ in 0..2 {
            let (digest, body) = self.manifest(&place, &version).await?;
            let parsed: Manifest = place.parse("a manifest", &body)?;
            if parsed.schema_version != 2 {
                return Err(place.protocol("a manifest of another generation".to_owned()));
            }
            match &parsed.manifests {
                Some(manifests) => version = select(manifests)?,
                None => {
                    manifest = Some((digest, parsed));
                    break;
                }
            }
        }
        let (digest, manifest) =
            manifest.ok_or_else(|| place.protocol("an index in an index".to_owned()))?;
        let config = manifest
            .config
            .ok_or_else(|| place.protocol("a manifest without configuration".to_owned()))?;
        let config: Config =
            place.parse("a configuration", &self.small_blob(&place, &config).await?)?;
        if config.os != "linux" || config.architecture != "amd64" {
            return Err(Error::Platform {
                found: format!("{}/{}", config.os, config.architecture),
            });
        }
        if manifest.layers.len() > MAX_LAYERS {
            return Err(place.protocol(format!("an image of more than {MAX_LAYERS} layers")));
        }
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for layer in manifest.layers {
            if !is_digest(&layer.digest) {
                return Err(place.protocol(format!("the digest {:?}", layer.digest)));
            }
            layers.push(Layer {
                digest: layer.digest,
                size: layer.size,
            });
        }
        Ok(Image {
            digest,
            env: config
                .config
                .and_then(|config| config.env)
                .unwrap_or_default(),
            layers,
            place,
        })
    }

    async fn manifest(&self, place: &Place, version: &str) -> Result<(String, Bytes), Error> {
        let url = format!("{}/manifests/{version}", place.url);
        let response = self.get(place, &url, MANIFESTS, 0).await?;
        let body = self.http.read(&place.host, response).await?;
        let found = format!("sha256:{}", hex::encode(Sha256::digest(&body)));
        if version.starts_with("sha256:") && version != found {
            return Err(Error::Digest {
                what: "the image's manifest".to_owned(),
                expected: version.to_owned(),
                found,
            });
        }
        Ok((found, body))
    }

    async fn small_blob(&self, place: &Place, blob: &Descriptor) -> Result<Bytes, Error> {
        if !is_digest(&blob.digest) || blob.size > MAX_ANSWER as u64 {
            return Err(place.protocol("a configuration that cannot be one".to_owned()));
        }
        let url = format!("{}/blobs/{}", place.url, blob.digest);
        let response = self.get(place, &url, "*/*", 0).await?;
        let body = self.http.read(&place.host, response).await?;
        check(
            &blob.digest,
            &hex::encode(Sha256::digest(&body)),
            "the image's configuration",
        )?;
        Ok(body)
    }

    /// Downloads a layer into a new file and verifies it.
    ///
    /// # Errors
    /// For a layer that cannot be had or is not what the manifest says. The file
    /// is then of no use.
    pub async fn layer(&self, image: &Image, layer: &Layer, to: &Path) -> Result<(), Error> {
        let place = &image.place;
        let url = format!("{}/blobs/{}", place.url, layer.digest);
        let mut file = tokio::fs::File::create(to)
            .await
            .map_err(Error::io("create", to))?;
        let mut hash = Sha256::new();
        let mut got = 0;
        for attempt in 1.. {
            let response = match self.get(place, &url, "*/*", got).await {
                Err(Error::Unreachable { why, .. }) if attempt < ATTEMPTS => {
                    tracing::debug!(
                        registry = place.host,
                        why,
                        "download layer failed; retrying"
                    );
                    continue;
                }
                answer => answer?,
            };
            if got > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
                // It began anew, and so do we.
                file = tokio::fs::File::create(to)
                    .await
                    .map_err(Error::io("create", to))?;
                hash = Sha256::new();
                got = 0;
            }
            let ended = self
                .receive(response, layer, &mut file, &mut hash, &mut got)
                .await;
            match ended.map_err(|error| named(error, to))? {
                None => break,
                Some(why) if attempt >= ATTEMPTS => {
                    return Err(Error::Unreachable {
                        registry: place.host.clone(),
                        why: format!("{got} of {} bytes of a layer came, then {why}", layer.size),
                    });
                }
                Some(why) => {
                    tracing::debug!(
                        registry = place.host,
                        why,
                        got,
                        "layer download interrupted; resuming"
                    );
                }
            }
        }
        file.flush().await.map_err(Error::io("write", to))?;
        check(
            &layer.digest,
            &hex::encode(hash.finalize()),
            "a layer of the image",
        )
    }

    /// Takes what comes. Answers with why it ended before its end, if it did.
    async fn receive(
        &self,
        response: Response<Incoming>,
        layer: &Layer,
        file: &mut tokio::fs::File,
        hash: &mut Sha256,
        got: &mut u64,
    ) -> Result<Option<String>, Error> {
        let mut body = response.into_body();
        loop {
            let frame = match tokio::time::timeout(self.http.silence(), body.frame()).await {
                Err(_) => return Ok(Some("nothing more".to_owned())),
                Ok(None) => break,
                Ok(Some(Err(error))) => return Ok(Some(chain(&error))),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            *got += data.len() as u64;
            if *got > layer.size {
                return Err(Error::Layer(std::io::Error::other(format!(
                    "it is longer than the {} bytes that the manifest says",
                    layer.size
                ))));
            }
            hash.update(&data);
            file.write_all(&data).await.map_err(Error::Layer)?;
        }
        Ok((*got < layer.size).then(|| "its end".to_owned()))
    }

    /// Asks, logging in where that is wanted.
    async fn get(
        &self,
        place: &Place,
        url: &str,
        accept: &str,
        offset: u64,
    ) -> Result<Response<Incoming>, Error> {
        let held = place.authorization();
        let ask = |authorization: Option<HeaderValue>| async move {
            self.http
                .get(&place.host, url, authorization.as_ref(), accept, offset)
                .await
        };
        let mut response = ask(held).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let headers = response.headers().clone();
            let login = place.login.as_ref();
            let header =
                auth::answer(&self.http, &place.image, &place.host, &headers, login).await?;
            *place.authorization.lock_unpoisoned() = Some(header.clone());
            response = ask(Some(header)).await?;
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let elsewhere = response.extensions().get::<Elsewhere>().is_some();
        let body = self
            .http
            .read(&place.host, response)
            .await
            .unwrap_or_default();
        let (registry, image) = (place.host.clone(), place.image.to_string());
        let why = message(status, &body, elsewhere);
        Err(match status {
            StatusCode::NOT_FOUND => Error::NotFound { registry, image },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Unauthorized {
                registry,
                image,
                why,
            },
            _ => Error::Status {
                registry,
                status: status.as_u16(),
                message: why,
            },
        })
    }
}

impl Place {
    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock_unpoisoned().clone()
    }

    fn protocol(&self, what: String) -> Error {
        Error::Protocol {
            registry: self.host.clone(),
            what,
        }
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, what: &str, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body)
            .map_err(|error| self.protocol(format!("{what} that cannot be read: {error}")))
    }
}

impl Image {
    /// Bytes of all layers, compressed.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layers
            .iter()
            .fold(0, |sum, layer| sum.saturating_add(layer.size))
    }
}

fn named(error: Error, path: &Path) -> Error {
    match error {
        Error::Layer(error) if error.raw_os_error().is_some() => Error::io("write", path)(error),
        other => other,
    }
}

fn check(expected: &str, found: &str, what: &str) -> Result<(), Error> {
    let found = format!("sha256:{found}");
    if expected == found {
        return Ok(());
    }
    Err(Error::Digest {
        what: what.to_owned(),
        expected: expected.to_owned(),
        found,
    })
}

/// The manifest for the guests' processor.
fn select(manifests: &[Descriptor]) -> Result<String, Error> {
    let platform = |entry: &Descriptor| {
        let platform = entry.platform.as_ref();
        platform.map_or(String::new(), |p| format!("{}/{}", p.os, p.architecture))
    };
    let found = manifests
        .iter()
        .find(|entry| platform(entry) == "linux/amd64" && is_digest(&entry.digest));
    match found {
        Some(entry) => Ok(entry.digest.clone()),
        None => {
            let mut all: Vec<String> = manifests.iter().map(platform).collect();
            all.retain(|platform| !platform.is_empty());
            all.truncate(8);
            Err(Error::Platform {
                found: all.join(", "),
            })
        }
    }
}

/// Reads every kind of document that a registry answers with.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_documents(body: &[u8]) {
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(body) {
        let _ = manifest.manifests.as_deref().map(select);
    }
    let _ = serde_json::from_slice::<Config>(body);
}

#[cfg(test)]
mod tests;
