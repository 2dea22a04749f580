//! `POST /files`: bytes become files.
//!
//! The body is taken in batches. Each batch goes to a blocking thread together
//! with the whole state of the upload, is written there, and comes back before the next is taken: memory is constant, and a slow client holds
//! no thread.
//!
//! ```text
//!  body ─▶ (gunzip) ─▶ (multipart) ─▶ file
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;

use super::access::FileQuery;
use super::error::Kind;
use super::multipart::{Event, Parser};
use super::names::native;
use super::owner::Owner;
use super::{Actor, FileError, metadata, tree};
use crate::http::HttpError;
use crate::paths;

/// Bytes that are handed to a blocking thread at a time.
const BATCH_BYTES: usize = 512 * 1024;
/// An upload on which nothing arrives for this long is given up.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// The form field that holds files.
const FILE_FIELD: &str = "file";

/// One written file, as clients are told.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct WriteInfo {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub path: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl WriteInfo {
    pub fn new(path: &str, metadata: BTreeMap<String, String>) -> Self {
        Self {
            name: paths::file_name(path).to_owned(),
            kind: "file",
            path: path.to_owned(),
            metadata,
        }
    }
}

/// Writes what a request carries.
pub async fn upload<B>(
    actor: &Actor,
    query: &FileQuery,
    headers: &HeaderMap,
    body: B,
) -> Result<Vec<WriteInfo>, HttpError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    let metadata = metadata::from_headers(headers)?;
    let decoder = decoder(actor, query, headers, metadata)?;
    let decoder = feed(actor, decoder, body).await?;
    let written = actor.run(move || decoder.finish()).await?;
    if written.is_empty() {
        return Err(HttpError::bad_request("the request holds no file"));
    }
    Ok(written)
}

/// What a request's headers say about its body.
fn decoder(
    actor: &Actor,
    query: &FileQuery,
    headers: &HeaderMap,
    metadata: BTreeMap<String, String>,
) -> Result<Decoder, HttpError> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    };
    let content_type = text(CONTENT_TYPE);
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    let mut files = Files {
        actor: actor.clone(),
        metadata,
        current: None,
        written: Vec::new(),
    };
    let sink = match media_type.as_str() {
        "multipart/form-data" => {
            let parser = Parser::for_content_type(content_type)
                .map_err(|error| HttpError::bad_request(error.to_string()))?;
            Sink::Form(Box::new(Form {
                parser,
                files,
                path: query.path.clone().filter(|path| !path.is_empty()),
                seen: BTreeSet::new(),
            }))
        }
        "application/octet-stream" => {
            let path = query
                .path
                .as_deref()
                .filter(|path| !path.is_empty())
                .ok_or_else(|| {
                    HttpError::bad_request("a raw upload needs the query parameter 'path'")
                })?;
            files.current = Some(Target::Pending(actor.resolve(path)?));
            Sink::Raw(files)
        }
        _ => {
            return Err(HttpError::new(
                StatusCode::BAD_REQUEST,
                format!(
                    "unsupported content type '{media_type}', use multipart/form-data or \
                     application/octet-stream"
                ),
            ));
        }
    };
    match text(CONTENT_ENCODING).trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(Decoder::Plain(sink)),
        "gzip" | "x-gzip" => Ok(Decoder::Gzip(Box::new(MultiGzDecoder::new(sink)), false)),
        other => Err(HttpError::bad_request(format!(
            "unsupported content encoding '{other}'"
        ))),
    }
}

async fn feed<B>(actor: &Actor, mut decoder: Decoder, mut body: B) -> Result<Decoder, HttpError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    let mut batch: Vec<Bytes> = Vec::new();
    let mut size = 0;
    loop {
        let frame = tokio::time::timeout(IDLE_LIMIT, body.frame())
            .await
            .map_err(|_| {
                HttpError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "the upload stopped before its end",
                )
            })?;
        let over = match frame {
            None => true,
            Some(Err(error)) => {
                return Err(HttpError::bad_request(format!(
                    "cannot read the body: {error}"
                )));
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    size += data.len();
                    batch.push(data);
                }
                false
            }
        };
        if size >= BATCH_BYTES || (over && size > 0) {
            size = 0;
            let pieces = std::mem::take(&mut batch);
            decoder = actor
                .run(move || {
                    for piece in &pieces {
                        decoder.write(piece)?;
                    }
                    Ok(decoder)
                })
                .await?;
        }
        if over {
            return Ok(decoder);
        }
    }
}

/// The body's encoding around what it holds.
enum Decoder {
    Plain(Sink),
    /// And whether anything came in at all.
    Gzip(Box<MultiGzDecoder<Sink>>, bool),
}

impl Decoder {
    fn write(&mut self, data: &[u8]) -> Result<(), FileError> {
        match self {
            Self::Plain(sink) => sink.take(data),
            Self::Gzip(decoder, any) => {
                *any |= !data.is_empty();
                decoder.write_all(data).map_err(gzip_error)
            }
        }
    }

    fn finish(self) -> Result<Vec<WriteInfo>, FileError> {
        match self {
            Self::Plain(sink) => sink.finish(),
            Self::Gzip(_, false) => Err(FileError::invalid("the gzip body is empty")),
            Self::Gzip(mut decoder, true) => {
                decoder.try_finish().map_err(gzip_error)?;
                let sink = decoder.finish().map_err(gzip_error)?;
                sink.finish()
            }
        }
    }
}

/// Our own errors pass through the decoder as I/O errors; all others are its.
fn gzip_error(error: io::Error) -> FileError {
    match error.downcast::<FileError>() {
        Ok(ours) => ours,
        Err(error) => FileError::invalid(format!("invalid gzip body: {error}")),
    }
}

enum Sink {
    Raw(Files),
    Form(Box<Form>),
}

impl Sink {
    fn take(&mut self, data: &[u8]) -> Result<(), FileError> {
        match self {
            Self::Raw(files) => files.write(data),
            Self::Form(form) => form.take(data),
        }
    }

    fn finish(self) -> Result<Vec<WriteInfo>, FileError> {
        match self {
            Self::Raw(mut files) => {
                files.close()?;
                Ok(files.written)
            }
            Self::Form(form) => {
                form.parser
                    .finish()
                    .map_err(|error| FileError::invalid(error.to_string()))?;
                Ok(form.files.written)
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.take(data).map_err(io::Error::other)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Form {
    parser: Parser,
    files: Files,
    /// Overrides the file name; then there may be one file only.
    path: Option<String>,
    seen: BTreeSet<String>,
}

impl Form {
    fn take(&mut self, data: &[u8]) -> Result<(), FileError> {
        self.parser.push(data);
        let invalid =
            |error: super::multipart::MultipartError| FileError::invalid(error.to_string());
        while let Some(event) = self.parser.poll().map_err(invalid)? {
            match event {
                Event::Part(header) if header.name.as_deref() == Some(FILE_FIELD) => {
                    let path = self.path.as_deref().or(header.filename.as_deref());
                    let path = path.filter(|path| !path.is_empty()).ok_or_else(|| {
                        FileError::invalid("a file needs a name, or the query parameter 'path'")
                    })?;
                    let path = self.files.actor.resolve(path)?;
                    if !self.seen.insert(path.clone()) {
                        return Err(FileError::invalid(format!(
                            "you cannot upload multiple files to the same path '{path}'"
                        )));
                    }
                    self.files.current = Some(Target::Pending(path));
                }
                Event::Data(data) if self.files.current.is_some() => self.files.write(&data)?,
                // Other fields have no meaning.
                Event::Part(_) | Event::Data(_) | Event::End => {}
                Event::PartEnd => self.files.close()?,
            }
        }
        Ok(())
    }
}

/// Where data goes.
enum Target {
    /// Opened with the first data, or at the end when there is none.
    Pending(String),
    Open(String, File),
}

struct Files {
    actor: Actor,
    metadata: BTreeMap<String, String>,
    current: Option<Target>,
    written: Vec<WriteInfo>,
}

impl Files {
    fn write(&mut self, data: &[u8]) -> Result<(), FileError> {
        let (path, mut file) = self.open()?;
        let result = file.write_all(data);
        let result =
            result.map_err(|error| FileError::from_io(&format!("error writing '{path}'"), &error));
        self.current = Some(Target::Open(path, file));
        result
    }

    fn close(&mut self) -> Result<(), FileError> {
        if self.current.is_none() {
            return Ok(());
        }
        let (path, file) = self.open()?;
        drop(file);
        self.written
            .push(WriteInfo::new(&path, self.metadata.clone()));
        Ok(())
    }

    fn open(&mut self) -> Result<(String, File), FileError> {
        match self.current.take() {
            Some(Target::Open(path, file)) => Ok((path, file)),
            Some(Target::Pending(path)) => {
                let file = create(&path, &self.metadata, self.actor.owner())?;
                Ok((path, file))
            }
            None => Err(FileError::internal("data without a file")),
        }
    }
}

/// Opens a file for writing from its start, with all directories above it. Whatever of
/// them is made belongs to the owner, and so does the file from now on, new or not.
///
/// A watcher is told in this order: created, given (`chmod`), written.
pub fn create(
    path: &str,
    metadata: &BTreeMap<String, String>,
    owner: Owner,
) -> Result<File, FileError> {
    let failed =
        |error: &io::Error| FileError::from_io(&format!("error opening file '{path}'"), error);
    tree::make_parent_of(path, owner)?;
    let native = native(path);
    if std::fs::metadata(&native).is_ok_and(|metadata| metadata.is_dir()) {
        return Err(FileError::invalid(format!("path is a directory: {path}")));
    }
    // Without blocking: opening a pipe that nobody reads must not hold the thread. What
    // is there is cut only once it is given away, through the same descriptor, so that
    // no other file can take its place in between.
    let mut options = File::options();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    // What is there is opened as such: asked to create, the kernel may refuse root a file
    // of somebody else's in `/tmp` (`fs.protected_regular`).
    let file = match options.open(&native) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            options.create(true).truncate(false).open(&native)
        }
        opened => opened,
    };
    let file = file.map_err(|error| failed(&error))?;
    let found = file.metadata().map_err(|error| failed(&error))?;
    // Devices and pipes stay whose they are.
    if found.is_file() {
        owner.take(&file).map_err(|error| failed(&error))?;
        if found.len() > 0 {
            file.set_len(0).map_err(|error| failed(&error))?;
        }
    }
    match metadata::replace(&file, metadata) {
        // Devices and the like keep none.
        Err(error) if metadata.is_empty() && error.kind == Kind::Denied => {}
        result => result?,
    }
    Ok(file)
}
