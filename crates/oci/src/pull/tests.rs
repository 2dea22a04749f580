use super::*;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::IntoResponse,
};
use http::header::{AUTHORIZATION, RANGE, WWW_AUTHENTICATE};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// A registry on loopback, with the faults that a test asks for.
#[derive(Default)]
struct Registry {
    answers: HashMap<String, Vec<u8>>,
    /// `basic` or `bearer`.
    wants: Option<&'static str>,
    /// Blobs end after so many bytes, the first time.
    cut: Option<usize>,
    /// Blobs stall after so many bytes, every time.
    stall: Option<usize>,
    requests: AtomicUsize,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

const LAYER: &[u8] = b"a layer, as far as anybody here can tell";

impl Registry {
    /// With one image `a/b:1`, whose layer is said to have `size` bytes.
    fn with_image(architecture: &str, size: usize) -> Self {
        let mut this = Self::default();
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","config":{{"Env":["A=1"]}}}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":{}}},
                "layers":[{{"digest":"{}","size":{size}}}]}}"#,
            digest(config.as_bytes()),
            config.len(),
            digest(LAYER)
        );
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[
                {{"digest":"{0}","size":1,"platform":{{"os":"linux","architecture":"arm64"}}}},
                {{"digest":"{0}","size":1,"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
            digest(manifest.as_bytes())
        );
        for (path, body) in [
            (format!("blobs/{}", digest(LAYER)), LAYER.to_vec()),
            (
                format!("blobs/{}", digest(config.as_bytes())),
                config.clone().into_bytes(),
            ),
            (
                format!("manifests/{}", digest(manifest.as_bytes())),
                manifest.clone().into_bytes(),
            ),
            ("manifests/1".to_owned(), manifest.into_bytes()),
            ("manifests/multi".to_owned(), index.into_bytes()),
        ] {
            this.answers.insert(format!("/v2/a/b/{path}"), body);
        }
        this
    }

    async fn serve(self) -> (String, Arc<Self>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let this = Arc::new(self);
        let state = (host.clone(), Arc::clone(&this));
        let router = Router::new().fallback(answer).with_state(state);
        tokio::spawn(async move { axum::serve(listener, router).await });
        (host, this)
    }
}

async fn answer(
    State((host, registry)): State<(String, Arc<Registry>)>,
    request: Request,
) -> axum::response::Response {
    let number = registry.requests.fetch_add(1, Ordering::SeqCst);
    let path = request.uri().path().to_owned();
    let authorization = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    // `user:pass`
    let basic = authorization == Some("Basic dXNlcjpwYXNz");
    if path == "/token" {
        let scope = request.uri().query().unwrap_or_default().to_owned();
        return match basic && scope.contains("repository%3Aa%2Fb%3Apull") {
            true => r#"{"token":"let-me-in"}"#.into_response(),
            false => StatusCode::UNAUTHORIZED.into_response(),
        };
    }
    let (allowed, challenge) = match registry.wants {
        Some("basic") => (basic, "Basic realm=\"x\"".to_owned()),
        Some(_) => (
            authorization == Some("Bearer let-me-in"),
            format!("Bearer realm=\"http://{host}/token\",service=\"here\""),
        ),
        None => (authorization.is_none(), String::new()),
    };
    if !allowed {
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response();
    }
    let Some(body) = registry.answers.get(&path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let offset: usize = request
        .headers()
        .get(RANGE)
        .and_then(|value| {
            value
                .to_str()
                .ok()?
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let rest = body[offset.min(body.len())..].to_vec();
    let status = if offset > 0 {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    if path.ends_with(&digest(LAYER)) {
        if let Some(stall) = registry.stall {
            let first = Bytes::from(rest[..stall.min(rest.len())].to_vec());
            let stream = futures::stream::once(async move { Ok::<_, std::io::Error>(first) });
            let never = futures::stream::pending();
            let body = Body::from_stream(futures::StreamExt::chain(stream, never));
            return (status, body).into_response();
        }
        if let Some(cut) = registry.cut.filter(|_| offset == 0) {
            let first = Bytes::from(rest[..cut].to_vec());
            let stream = futures::stream::once(async move { Ok(first) });
            let broken = futures::stream::once(async move {
                // What came before is on its way by then.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(std::io::Error::other(format!("cut at request {number}")))
            });
            let body = Body::from_stream(futures::StreamExt::chain(stream, broken));
            return (status, body).into_response();
        }
    }
    (status, rest).into_response()
}

fn client(hosts: &[&str], mirrors: &[(&str, &str)]) -> Client {
    let registries = Registries {
        insecure: hosts.iter().map(|host| (*host).to_owned()).collect(),
        mirrors: mirrors
            .iter()
            .map(|(registry, location)| crate::Mirror {
                registry: (*registry).to_owned(),
                location: (*location).to_owned(),
                username: None,
                password_file: None,
            })
            .collect(),
        ..Registries::default()
    };
    Client::new(&registries)
        .unwrap()
        .with_silence(Duration::from_millis(300))
}

async fn pull(client: &Client, name: &str, credentials: &Credentials) -> Result<Vec<u8>, Error> {
    let image = client.resolve(&name.parse().unwrap(), credentials).await?;
    assert_eq!(image.env, ["A=1"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    client.layer(&image, &image.layers[0], file.path()).await?;
    Ok(std::fs::read(file.path()).unwrap())
}

#[tokio::test]
async fn images_are_found_by_tag_digest_and_platform() {
    let (host, registry) = Registry::with_image("amd64", LAYER.len()).serve().await;
    let client = client(&[&host], &[]);
    let anonymous = Credentials::Anonymous;
    let manifest = &registry.answers["/v2/a/b/manifests/1"];
    for name in ["a/b:1", "a/b:multi", &format!("a/b@{}", digest(manifest))] {
        let layer = pull(&client, &format!("{host}/{name}"), &anonymous).await;
        assert_eq!(layer.unwrap(), LAYER, "{name}");
    }
    let error = pull(&client, &format!("{host}/a/b:2"), &anonymous)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn registries_are_logged_in_to_as_they_ask() {
    for wants in ["basic", "bearer"] {
        let registry = Registry {
            wants: Some(wants),
            ..Registry::with_image("amd64", LAYER.len())
        };
        let (host, _) = registry.serve().await;
        let client = client(&[&host], &[]);
        let name = format!("{host}/a/b:1");
        let good = Credentials::basic("user".to_owned(), "pass".to_owned());
        assert_eq!(pull(&client, &name, &good).await.unwrap(), LAYER);
        let bad = Credentials::basic("user".to_owned(), "wrong".to_owned());
        for credentials in [bad, Credentials::Anonymous] {
            let error = pull(&client, &name, &credentials).await.unwrap_err();
            assert!(
                matches!(error, Error::Unauthorized { .. }),
                "{wants}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn mirrors_come_first_and_see_no_credentials() {
    let (mirror, asked) = Registry::with_image("amd64", LAYER.len()).serve().await;
    let client = client(&[&mirror], &[("registry.invalid", &mirror)]);
    // The mirror refuses whoever shows credentials.
    let credentials = Credentials::basic("user".to_owned(), "pass".to_owned());
    let layer = pull(&client, "registry.invalid/a/b:1", &credentials).await;
    assert_eq!(layer.unwrap(), LAYER);
    assert!(asked.requests.load(Ordering::SeqCst) >= 3);
}

#[tokio::test]
async fn a_mirror_may_know_us_by_a_name_of_its_own() {
    let registry = Registry {
        wants: Some("bearer"),
        ..Registry::with_image("amd64", LAYER.len())
    };
    let (host, _) = registry.serve().await;
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "pass\n").unwrap();
    let mut registries = Registries {
        insecure: vec![host.clone()],
        mirrors: vec![crate::Mirror {
            registry: "*".to_owned(),
            location: host,
            username: Some("user".to_owned()),
            password_file: Some(password.path().to_owned()),
        }],
        ..Registries::default()
    };
    let name = "registry.invalid/a/b:1";
    let known = Client::new(&registries).unwrap();
    let layer = pull(&known, name, &Credentials::Anonymous).await;
    assert_eq!(layer.unwrap(), LAYER);
    registries.mirrors[0].username = None;
    let unknown = Client::new(&registries).unwrap();
    assert!(pull(&unknown, name, &Credentials::Anonymous).await.is_err());
}

/// AWS, as far as passwords for registries go. Whether a signature is right is the
/// business of other tests.
async fn aws(request: Request) -> axum::response::Response {
    let header = |name: &str| {
        let value = request.headers().get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let authorization = header("authorization");
    let known = request.uri().path() == "/"
        && header("x-amz-target").ends_with(".GetAuthorizationToken")
        && authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIA/")
        && authorization.contains("/eu-west-1/ecr/aws4_request");
    match known {
        // `user:pass`, as the registry wants it.
        true => r#"{"authorizationData":[{"authorizationToken":"dXNlcjpwYXNz"}]}"#.into_response(),
        false => {
            let why = r#"{"__type":"UnrecognizedClientException","message":"who are you"}"#;
            (StatusCode::BAD_REQUEST, why).into_response()
        }
    }
}

#[tokio::test]
async fn aws_gives_out_a_password_for_keys() {
    let aws = Router::new().fallback(aws);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, aws).await });
    let registry = Registry {
        wants: Some("basic"),
        ..Registry::with_image("amd64", LAYER.len())
    };
    let (host, _) = registry.serve().await;
    let client = Client::new(&Registries {
        insecure: vec![host.clone()],
        aws_endpoint: Some(endpoint),
        ..Registries::default()
    });
    let client = client.unwrap();
    let keys =
        |id: &str| Credentials::aws(id.to_owned(), "secret".to_owned(), "eu-west-1".to_owned());
    let name = format!("{host}/a/b:1");
    assert_eq!(pull(&client, &name, &keys("AKIA")).await.unwrap(), LAYER);
    let error = pull(&client, &name, &keys("OTHER")).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("who are you"), "{error}");
}

#[tokio::test]
async fn a_layer_that_breaks_off_is_continued() {
    let registry = Registry {
        cut: Some(7),
        ..Registry::with_image("amd64", LAYER.len())
    };
    let (host, _) = registry.serve().await;
    let (client, image) = (client(&[&host], &[]), format!("{host}/a/b:1"));
    let layer = pull(&client, &image, &Credentials::Anonymous).await;
    assert_eq!(layer.unwrap(), LAYER);
}

#[tokio::test]
async fn registries_that_stall_or_lie_are_given_up() {
    let refused = async |registry: Registry| {
        let (host, _) = registry.serve().await;
        let client = client(&[&host], &[]);
        pull(&client, &format!("{host}/a/b:1"), &Credentials::Anonymous)
            .await
            .expect_err("refused")
    };
    let stalls = Registry {
        stall: Some(5),
        ..Registry::with_image("amd64", LAYER.len())
    };
    let error = refused(stalls).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let error = refused(Registry::with_image("amd64", LAYER.len() - 1)).await;
    assert!(
        error.to_string().contains("layer") && chain(&error).contains("longer"),
        "{error}"
    );
    let error = refused(Registry::with_image("amd64", LAYER.len() + 1)).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let error = refused(Registry::with_image("arm64", LAYER.len())).await;
    assert!(matches!(error, Error::Platform { .. }), "{error}");

    let mut forged = Registry::with_image("amd64", LAYER.len());
    let path = format!("/v2/a/b/blobs/{}", digest(LAYER));
    forged
        .answers
        .insert(path, LAYER.iter().rev().copied().collect());
    let error = refused(forged).await;
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[tokio::test]
async fn a_manifest_must_be_the_one_that_was_asked_for() {
    let mut registry = Registry::with_image("amd64", LAYER.len());
    let wanted = format!("sha256:{}", "0f".repeat(32));
    let manifest = registry.answers["/v2/a/b/manifests/1"].clone();
    registry
        .answers
        .insert(format!("/v2/a/b/manifests/{wanted}"), manifest);
    let (host, _) = registry.serve().await;
    let name = format!("{host}/a/b@{wanted}");
    let error = pull(&client(&[&host], &[]), &name, &Credentials::Anonymous)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    // Without TLS only where that is configured.
    let error = pull(&client(&[], &[]), &name, &Credentials::Anonymous)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

/// A service of the host's own, which no tenant's registry may lead to.
async fn internal() -> (String, Arc<AtomicUsize>) {
    const SECRET: &str = r#"{"token":"INTERNAL","note":"db_password=s3cr3t"}"#;
    let asked = Arc::new(AtomicUsize::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let count = Arc::clone(&asked);
    let router = Router::new().fallback(move || {
        count.fetch_add(1, Ordering::SeqCst);
        async { (StatusCode::FORBIDDEN, SECRET) }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (host, asked)
}

/// A registry that answers everything with this status and header.
async fn leading(status: StatusCode, name: http::HeaderName, value: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let router =
        Router::new().fallback(async move || (status, [(name, value)], "").into_response());
    tokio::spawn(async move { axum::serve(listener, router).await });
    host
}

#[tokio::test]
async fn a_tenant_cannot_have_the_hosts_own_services_asked() {
    let (inner, asked) = internal().await;
    let port = inner.rsplit_once(':').unwrap().1.to_owned();
    let client = client(&[], &[]);
    let mut reasons = Vec::new();
    for host in [
        inner.clone(),
        format!("localhost:{port}"),
        "127.0.0.1:1".to_owned(),
        "169.254.169.254:80".to_owned(),
        "0.0.0.0:9".to_owned(),
    ] {
        let error = pull(&client, &format!("{host}/x/y"), &Credentials::Anonymous).await;
        let why = error.unwrap_err().to_string();
        assert!(why.contains("registries.private"), "{host}: {why}");
        reasons.push(why.replace(&host, ""));
    }
    // An open port and a closed one look the same.
    assert_eq!(reasons[0], reasons[2]);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_registry_cannot_lead_to_the_hosts_own_services() {
    let (inner, asked) = internal().await;
    let realm = format!("Bearer realm=\"http://{inner}/admin\"");
    let tokens = leading(StatusCode::UNAUTHORIZED, WWW_AUTHENTICATE, realm).await;
    let location = format!("http://{inner}/token");
    let redirects = leading(StatusCode::FOUND, http::header::LOCATION, location).await;
    // These two may be asked; what they lead to is not theirs.
    let client = client(&[&tokens, &redirects], &[]);
    for host in [tokens, redirects] {
        let error = pull(&client, &format!("{host}/x/y"), &Credentials::Anonymous).await;
        let why = error.unwrap_err().to_string();
        assert!(
            !why.contains("s3cr3t") && !why.contains("INTERNAL"),
            "{why}"
        );
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

/// An internal registry's name is listed, and a tenant's registry names it as the
/// place that gives tokens.
#[tokio::test]
async fn what_another_host_says_is_not_repeated() {
    let (inner, asked) = internal().await;
    let realm = format!("Bearer realm=\"http://{inner}/token\"");
    let outer = leading(StatusCode::UNAUTHORIZED, WWW_AUTHENTICATE, realm).await;
    let both = client(&[&outer, &inner], &[]);
    let name = format!("{outer}/x/y");
    let error = pull(&both, &name, &Credentials::Anonymous).await;
    let why = error.unwrap_err().to_string();
    assert!(
        why.contains("status 403") && !why.contains("s3cr3t"),
        "{why}"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    // One that is not listed itself gets nobody asked.
    let alone = client(&[&inner], &[]);
    let error = pull(&alone, &name, &Credentials::Anonymous).await;
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("registries.private")
    );
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn private_networks_can_be_listed() {
    let registries = Registries {
        private: vec!["127.0.0.0/8".to_owned()],
        ..Registries::default()
    };
    let client = Client::new(&registries).unwrap();
    // Listed, so it is asked; and nobody is there.
    let error = pull(&client, "127.0.0.1:1/x/y", &Credentials::Anonymous).await;
    let why = error.unwrap_err().to_string();
    assert!(why.contains("refused"), "{why}");
}
