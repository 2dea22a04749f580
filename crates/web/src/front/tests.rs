use super::*;

fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

const ID: &str = "i0123456789abcdefghij";

#[test]
fn a_path_names_a_sandbox_and_what_is_asked_of_its_agent() {
    let of = |uri: &str| destination(&Uri::try_from(uri).expect("a URI"));
    let (id, rest) = of(&format!("/web/agent/{ID}/files?path=%2Fa%3F")).expect("a destination");
    assert_eq!(id.as_str(), ID);
    assert_eq!(rest.as_str(), "/files?path=%2Fa%3F");
    for other in [
        "/web/agent/",
        "/web/agent/nothing/files",
        "/web/agent/..%2f/files",
    ] {
        assert!(of(other).is_none(), "{other}");
    }
}

#[test]
fn the_agent_gets_its_token_and_nothing_of_the_session() {
    let shown = [
        ("host", "hearth.example"),
        ("cookie", "hearth_session=secret"),
        ("origin", "http://hearth.example"),
        ("x-hearth-web", "1"),
        ("x-access-token", "forged"),
        ("e2b-sandbox-id", "iother"),
        ("authorization", "Basic dXNlcjo="),
    ];
    let mut head = head(&format!("/web/agent/{ID}/process.Process/List"), &shown);
    let (id, rest) = destination(&head.uri).expect("a destination");
    let sandbox = Sandbox {
        domain: "hearth.example".to_owned(),
        envd_access_token: Some("token".to_owned()),
    };
    redirect(&mut head, &id, rest, &sandbox).expect("a request");
    assert_eq!(head.uri.path(), "/process.Process/List");
    assert_eq!(head.headers[HOST], format!("49983-{ID}.hearth.example"));
    assert_eq!(head.headers[ACCESS_TOKEN], "token");
    assert_eq!(head.headers["authorization"], "Basic dXNlcjo=");
    for name in ["cookie", "origin", "x-hearth-web", "e2b-sandbox-id"] {
        assert!(!head.headers.contains_key(name), "{name}");
    }
    let Ok(Target::Sandbox(to)) = target::classify(&head) else {
        panic!("the edge does not take it for a sandbox's");
    };
    assert_eq!((to.id.as_str(), to.port), (ID, AGENT_PORT));
}

#[test]
fn only_a_download_of_the_pages_own_needs_no_mark() {
    let id = SandboxId::parse_client(ID).expect("an id");
    let marked = |site: &str, path: &str| {
        let head = head("/", &[("sec-fetch-site", site)]);
        question(&head, &id, path)
            .headers()
            .contains_key(proof::MARK)
    };
    assert!(marked("same-origin", "/files"));
    assert!(!marked("same-site", "/files"));
    assert!(!marked("same-origin", "/process.Process/Start"));
}

#[test]
fn what_a_guest_answers_is_never_a_page() {
    let mut headers = head(
        "/",
        &[
            ("content-type", "text/html"),
            ("content-disposition", "inline; filename=a.html"),
            ("set-cookie", "hearth_session=mine"),
            ("content-security-policy", "script-src *"),
            ("clear-site-data", "\"*\""),
            ("content-length", "3"),
        ],
    )
    .headers;
    tame(&mut headers);
    assert_eq!(headers[CONTENT_TYPE], "application/octet-stream");
    assert_eq!(headers[CONTENT_DISPOSITION], "attachment; filename=a.html");
    assert_eq!(headers["content-security-policy"], answer::DATA_POLICY);
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers[CONTENT_LENGTH], "3");
    assert!(!headers.contains_key("set-cookie"));
    assert!(!headers.contains_key("clear-site-data"));
    let mut stream = head("/", &[("content-type", "application/connect+json")]).headers;
    tame(&mut stream);
    assert_eq!(stream[CONTENT_TYPE], "application/connect+json");
}
