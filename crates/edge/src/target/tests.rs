use super::*;
use http::Request;
use proptest::prelude::*;

fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a valid request").into_parts().0
}

fn to_host(host: &str) -> Result<Target, Refusal> {
    classify(&head("/", &[("host", host)]))
}

fn sandbox(id: &SandboxId, port: u16) -> Result<Target, Refusal> {
    Ok(Target::Sandbox(Destination {
        id: id.clone(),
        port,
    }))
}

#[test]
fn host_names_the_sandbox() {
    let id = SandboxId::random();
    for host in [
        format!("8080-{id}.localhost:3000"),
        format!("8080-{id}.sbx.example.com"),
        format!("8080-{id}-6532622b.example.com:443"),
        format!("8080-{}.EXAMPLE.com", id.as_str().to_uppercase()),
        format!("8080-{id}.example.com."),
        format!("8080-{id}"),
    ] {
        assert_eq!(to_host(&host), sandbox(&id, 8080), "{host}");
    }
}

#[test]
fn http2_names_the_host_in_its_target() {
    let id = SandboxId::random();
    let parts = head(&format!("https://80-{id}.example.com/x"), &[]);
    assert_eq!(classify(&parts), sandbox(&id, 80));
}

#[test]
fn other_hosts_are_not_for_sandboxes() {
    for host in [
        "localhost:3000",
        "127.0.0.1:3000",
        "[::1]:3000",
        "api.localhost:3443",
        "example.com",
        "10-0-0-1.sslip.io",
        "my-host.example.com",
        "a-b",
    ] {
        assert_eq!(to_host(host), Ok(Target::Fallback), "{host}");
    }
    assert_eq!(classify(&head("/", &[])), Ok(Target::Fallback));
}

#[test]
fn bad_hosts_are_refused() {
    let id = SandboxId::random();
    let port = |text: &str| Err(Refusal::InvalidPort(text.to_owned()));
    assert_eq!(to_host(&format!("0-{id}.x")), port("0"));
    assert_eq!(to_host(&format!("65536-{id}.x")), port("65536"));
    assert_eq!(
        to_host("80-iabc.x"),
        Err(Refusal::InvalidSandboxId("iabc".to_owned()))
    );
    assert_eq!(to_host("user@localhost"), Err(Refusal::InvalidHost));
    assert_eq!(to_host("a b"), Err(Refusal::InvalidHost));
    let twice = head("/", &[("host", "localhost"), ("host", "localhost")]);
    assert_eq!(classify(&twice), Err(Refusal::InvalidHost));
}

#[test]
fn headers_name_the_sandbox_on_shared_hosts_only() {
    let id = SandboxId::random();
    let with = |host: &str| {
        classify(&head(
            "/",
            &[
                ("host", host),
                ("E2b-Sandbox-Id", id.as_str()),
                ("E2b-Sandbox-Port", "49999"),
            ],
        ))
    };
    for host in [
        "localhost",
        "localhost:3000",
        "10.1.2.3",
        "[::1]:3",
        "sandbox.x.dev",
    ] {
        assert_eq!(with(host), sandbox(&id, 49_999), "{host}");
    }
    assert_eq!(with("api.x.dev"), Ok(Target::Fallback));
    let other = SandboxId::random();
    assert_eq!(with(&format!("80-{other}.x.dev")), sandbox(&other, 80));
}

#[test]
fn half_or_bad_headers_are_refused() {
    let id = SandboxId::random();
    let with = |headers: &[(&str, &str)]| {
        let mut all = vec![("host", "localhost")];
        all.extend_from_slice(headers);
        classify(&head("/", &all)).expect_err("refused").status()
    };
    let (name, port) = ("e2b-sandbox-id", "e2b-sandbox-port");
    assert_eq!(with(&[(name, id.as_str())]), 400);
    assert_eq!(with(&[(port, "80")]), 400);
    assert_eq!(with(&[(name, "zzz"), (port, "80")]), 400);
    assert_eq!(with(&[(name, id.as_str()), (port, "+80")]), 400);
    assert_eq!(with(&[(name, id.as_str()), (port, "")]), 400);
    assert_eq!(
        with(&[(name, id.as_str()), (name, id.as_str()), (port, "80")]),
        400
    );
    let bare = to_host("sandbox.x.dev").expect_err("refused");
    assert_eq!(bare, Refusal::MissingHeader(SANDBOX_ID));
}

#[test]
fn signed_files_are_found_on_shared_hosts() {
    let signed = |host: &str| {
        let parts = head("/files?path=a&signature=v1_x", &[("host", host)]);
        classify(&parts).expect("valid")
    };
    assert!(matches!(signed("localhost:3000"), Target::SignedFile(_)));
    assert!(matches!(signed("sandbox.x.dev"), Target::SignedFile(_)));
    assert_eq!(signed("api.x.dev"), Target::Fallback);
}

proptest! {
    /// Every well-formed host routes to its port and id, whatever the domain.
    #[test]
    fn well_formed_hosts_route(
        port in 1u16..,
        id in "i[a-z0-9]{20}",
        client in prop::option::of("[a-z0-9]{1,12}"),
        domain in "(\\.[a-z][a-z0-9]{0,8}){0,4}",
    ) {
        let id: SandboxId = id.parse().expect("the pattern is an id's");
        let client = client.map(|client| format!("-{client}")).unwrap_or_default();
        prop_assert_eq!(to_host(&format!("{port}-{id}{client}{domain}")), sandbox(&id, port));
    }

    /// What routes to a sandbox always spells its id and port in the left-most label.
    #[test]
    fn nothing_else_routes(host in "[a-zA-Z0-9.:\\[\\]@-]{0,60}") {
        if let Ok(Target::Sandbox(found)) = to_host(&host) {
            let label = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
            let (port, id) = label.split_once('-').expect("the form has a hyphen");
            prop_assert_eq!(port.parse(), Ok(found.port));
            prop_assert!(id.starts_with(found.id.as_str()));
        }
    }
}
