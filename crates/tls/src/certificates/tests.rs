use super::*;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use std::os::unix::fs::PermissionsExt as _;
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn own(dir: &Path, domain: &str) -> Certificates {
    Certificates::own(dir, domain).expect("certificates")
}

fn roots(certificates: &Certificates) -> RootCertStore {
    let pem = certificates
        .authority_pem()
        .expect("own")
        .as_bytes()
        .to_vec();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&pem) {
        roots.add(root.expect("PEM")).expect("a root");
    }
    roots
}

/// Whether a client that trusts the authority accepts what `asked` is answered
/// with as the certificate of `name`.
fn accepted(certificates: &Certificates, asked: Option<&str>, name: &str) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(certificates)), provider)
            .build()
            .expect("a verifier");
    let key = certificates.find(asked).expect("a certificate");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    verifier
        .verify_server_cert(&key.cert[0], &key.cert[1..], &name, &[], UnixTime::now())
        .is_ok()
}

#[test]
fn names_below_the_domain_are_certified() {
    let dir = tempfile::tempdir().expect("a folder");
    for domain in ["localhost", "sbx.example.com"] {
        let certificates = own(&dir.path().join(domain), domain);
        for label in ["api", "49983-iabcdefghij0123456789", "8080-X"] {
            let name = format!("{label}.{domain}");
            assert!(accepted(&certificates, Some(&name), &name), "{name}");
        }
        for name in [domain, "localhost", "127.0.0.1", "::1"] {
            let asked = name.parse::<std::net::IpAddr>().is_err().then_some(name);
            assert!(accepted(&certificates, asked, name), "{name}");
        }
    }
}

#[test]
fn the_authority_certifies_no_other_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let certificates = own(dir.path(), "sbx.example.com");
    assert!(!accepted(&certificates, Some("example.com"), "example.com"));
    // Not even when it is asked to.
    let authority = Authority::open_or_create(dir.path(), "sbx.example.com").expect("opens");
    let stray = authority
        .issue(&["bank.example".to_owned()])
        .expect("issued");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(&certificates));
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .expect("a verifier");
    let name = ServerName::try_from("bank.example").expect("a name");
    let verdict = verifier.verify_server_cert(&stray.cert[0], &[], &name, &[], UnixTime::now());
    assert!(verdict.is_err());
}

#[test]
fn the_authority_is_made_once_and_is_roots_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let keys = dir.path().join("keys");
    let first = own(&keys, "localhost").authority_pem();
    let second = own(&keys, "localhost").authority_pem();
    let name = crate::common_name(first.as_deref().expect("own").as_bytes());
    assert!(name.expect("a name").starts_with("Hearth local CA "));
    assert_eq!(first, second);
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&keys), 0o700);
    assert_eq!(mode(&keys.join("ca.key")), 0o600);
    // Another domain is another authority; the old one can still be named.
    let other = own(&keys, "example.org").authority_pem();
    assert_ne!(first, other);
    assert_eq!(std::fs::read_to_string(keys.join("ca.crt.old")).ok(), first);
    std::fs::write(keys.join("ca.crt"), "nothing").expect("written");
    assert!(matches!(
        Authority::open_or_create(&keys, "example.org"),
        Err(Error::Content { .. })
    ));
}

#[test]
fn leaves_are_kept_renewed_and_bounded() {
    let dir = tempfile::tempdir().expect("a folder");
    let certificates = own(dir.path(), "localhost");
    let source = certificates.source();
    let Source::Own(own) = &*source else {
        unreachable!("made so")
    };
    let first = own.leaf("a.localhost").expect("a leaf");
    assert!(Arc::ptr_eq(&first, &own.leaf("a.localhost").expect("kept")));
    own.leaves().get_mut("a.localhost").expect("kept").issued -= RENEWAL;
    let second = own.leaf("a.localhost").expect("a leaf");
    assert!(!Arc::ptr_eq(&first, &second));
    // Filled up with copies: issuing thousands would take a while.
    let copy = own.leaves()["a.localhost"].clone();
    for number in 0..MAX_LEAVES {
        let mut leaf = copy.clone();
        leaf.issued -= Duration::from_millis(u64::try_from(MAX_LEAVES - number).expect("small"));
        own.leaves().insert(format!("{number}.localhost"), leaf);
    }
    own.leaf("new.localhost").expect("a leaf");
    let leaves = own.leaves();
    assert!(leaves.len() <= MAX_LEAVES, "{}", leaves.len());
    assert!(leaves.contains_key("new.localhost") && leaves.contains_key(""));
}

/// An authority that ends is announced, replaced and forgotten while it serves.
#[test]
fn the_authority_is_followed_by_one_that_clients_know() {
    use crate::authority::put_ending;
    let dir = tempfile::tempdir().expect("a folder");
    let name = "api.sbx.example.com";
    put_ending(dir.path(), "sbx.example.com", 200);
    let certificates = own(dir.path(), "sbx.example.com");
    assert!(!certificates.reload().expect("nothing changed"));

    put_ending(dir.path(), "sbx.example.com", 100);
    assert!(certificates.reload().expect("another authority"));
    let announced = certificates.authority_pem().expect("own");
    assert_eq!(announced.matches("BEGIN CERTIFICATE").count(), 2);
    let signed = certificates.find(Some(name)).expect("a certificate");
    assert!(!certificates.reload().expect("nothing changed"));
    assert!(accepted(&certificates, Some(name), name));

    // Sixty days before its end the one that was announced signs.
    let current = dir.path().join("ca.crt");
    let first = std::fs::read_to_string(&current).expect("there");
    put_ending(dir.path(), "sbx.example.com", 50);
    assert!(certificates.reload().expect("the successor"));
    let now = certificates.authority_pem().expect("own");
    assert_eq!(announced, format!("{first}{now}"));
    assert!(!dir.path().join("ca.next.key").exists());
    let renewed = certificates.find(Some(name)).expect("a certificate");
    assert!(!Arc::ptr_eq(&signed, &renewed));
    assert!(accepted(&certificates, Some(name), name));
}

#[test]
fn bundle_holds_ours_and_the_systems() {
    let dir = tempfile::tempdir().expect("a folder");
    let system = dir.path().join("system.pem");
    std::fs::write(&system, "SYSTEM\n").expect("written");
    crate::publish(dir.path(), "OURS\n", Some(&system)).expect("published");
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("there");
    assert_eq!(read("ca.crt"), "OURS\n");
    assert_eq!(read("ca-bundle.crt"), "OURS\nSYSTEM\n");
    let mode = std::fs::metadata(dir.path().join("ca-bundle.crt"))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);
}

/// A given certificate is replaced while a connection lives on.
#[tokio::test]
async fn given_certificate_is_reloaded_under_live_connections() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let dir = tempfile::tempdir().expect("a folder");
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let write = |pair: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        std::fs::write(&chain, pair.cert.pem()).expect("written");
        std::fs::write(&key, pair.signing_key.serialize_pem()).expect("written");
    };
    let pair = |name: &str| {
        rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate")
    };
    let (first, second) = (pair("h.example"), pair("h.example"));
    write(&first);
    let certificates = Arc::new(Certificates::given(&chain, &key).expect("valid"));
    assert!(!certificates.reload().expect("unchanged"));
    let server = Arc::new(server_config(Arc::clone(&certificates)).expect("a configuration"));

    let connect = async |trusted: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.cert.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(1 << 16);
        let name = ServerName::try_from("h.example").expect("a name");
        let acceptor = TlsAcceptor::from(Arc::clone(&server));
        let connector = TlsConnector::from(Arc::new(client));
        let (accepted, connected) =
            tokio::join!(acceptor.accept(far), connector.connect(name, near));
        Ok::<_, std::io::Error>((accepted?, connected?))
    };
    let (mut server_side, mut client_side) = connect(&first).await.expect("trusted");

    std::fs::write(&chain, "broken").expect("written");
    std::fs::File::open(&chain)
        .and_then(|file| file.set_modified(SystemTime::now() + Duration::from_secs(5)))
        .expect("touched");
    assert!(certificates.reload().is_err());
    connect(&first).await.expect("the one of before goes on");

    write(&second);
    std::fs::File::open(&chain)
        .and_then(|file| file.set_modified(SystemTime::now() + Duration::from_secs(9)))
        .expect("touched");
    assert!(certificates.reload().expect("valid"));
    connect(&second).await.expect("the new one");
    assert!(connect(&first).await.is_err());

    client_side.write_all(b"still here").await.expect("sent");
    client_side.flush().await.expect("sent");
    let mut read = [0; 10];
    server_side.read_exact(&mut read).await.expect("received");
    assert_eq!(&read, b"still here");
}
