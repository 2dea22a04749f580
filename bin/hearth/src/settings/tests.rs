//! What files, the environment and the checks say to good and bad settings.

use super::*;

#[test]
fn unknown_fields_are_refused() {
    let error = toml::from_str::<Settings>("[api]\nprot = 1\n").expect_err("a misspelt field");
    assert!(error.to_string().contains("prot"), "{error}");
}

#[test]
fn the_warm_pool_has_its_former_name_too() {
    for name in ["warm_pool_size", "spares"] {
        let settings: Settings = toml::from_str(&format!("[node]\n{name} = 7")).expect("valid");
        assert_eq!(settings.node.warm_pool_size, 7, "{name}");
    }
}

#[test]
fn a_share_of_memory_is_at_most_all_of_it() {
    let mut settings = Settings::default();
    settings.check().expect("the defaults are fine");
    settings.node.warm_pool_memory_percent = 101;
    let error = settings.check().expect_err("is more than all");
    assert!(
        error.to_string().contains("warm_pool_memory_percent"),
        "{error}"
    );
}

#[test]
fn there_is_room_for_some_connections_and_not_for_any_number() {
    let mut settings = Settings::default();
    for most in [0, usize::MAX] {
        settings.connections.max_connections = most;
        let error = settings.check().expect_err("is refused");
        assert!(error.to_string().contains("max_connections"), "{error}");
    }
}

#[test]
fn what_other_machines_reach_is_known() {
    let beyond = |text: &str| {
        let settings: Settings = toml::from_str(text).expect("valid");
        settings.listens_beyond_loopback()
    };
    assert!(!beyond(""));
    assert!(beyond("[api]\naddress = \"0.0.0.0\"\n"));
    assert!(beyond("[tls]\naddress = \"192.0.2.1\"\n"));
    assert!(!beyond("[tls]\naddress = \"192.0.2.1\"\nport = 0\n"));
    assert!(beyond("[node]\ngrpc_address = \"[::]:7\"\n"));
    assert!(!beyond("[node]\ngrpc_address = \"[::1]:7\"\n"));
    assert!(beyond("[node]\nlisten = \"0.0.0.0:5008\"\n"));
    // Nodes report there, and nobody makes sandboxes.
    assert!(!beyond("[cluster]\nlisten = \"0.0.0.0:5009\"\n"));
}

#[test]
fn a_node_is_told_of_where_it_can_be_reached() {
    let advertised = |text: &str| {
        let settings: Settings = toml::from_str(text).expect("valid");
        settings.node.advertised("machine")
    };
    let listen = "[node]\nlisten = ";
    assert_eq!(
        advertised(&format!("{listen}\"0.0.0.0:5008\"")),
        "machine:5008"
    );
    assert_eq!(
        advertised(&format!("{listen}\"[::]:5008\"")),
        "machine:5008"
    );
    assert_eq!(
        advertised(&format!("{listen}\"192.0.2.1:7\"")),
        "192.0.2.1:7"
    );
    let given = format!("{listen}\"0.0.0.0:5008\"\nadvertise = \"n.example.com:9\"");
    assert_eq!(advertised(&given), "n.example.com:9");
}

#[test]
fn the_environment_wins_over_the_file() {
    let read = |variable: &'static str, value: &'static str| {
        Settings::from_text(
            Path::new("hearth.toml"),
            "state_dir = \"/a\"\n[api]\nport = 1",
            move |name| (name == variable).then(|| value.to_owned()),
        )
    };
    let settings = read("HEARTH_API_PORT", "4000").expect("valid");
    assert_eq!(
        (settings.api.port, settings.state_dir),
        (4000, PathBuf::from("/a"))
    );
    let settings = read("HEARTH_STATE_DIR", "").expect("empty is absent");
    assert_eq!(settings.state_dir, PathBuf::from("/a"));
    let error = read("HEARTH_API_PORT", "x").expect_err("not a port");
    assert!(error.to_string().contains("HEARTH_API_PORT=x"), "{error}");
    let error = read("HEARTH_STATE_DIR", "b").expect_err("a relative path");
    let text = format!("{error:#}");
    let expected = "HEARTH_STATE_DIR in the environment: state_dir: must be an absolute path";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn each_variable_sets_the_key_that_it_names() {
    for variable in environment::VARIABLES {
        let mut settings = Settings::default();
        let before = serde_json::to_value(&settings).expect("JSON");
        environment::apply(&mut settings, |name| {
            (name == variable.name).then(|| "4321".to_owned())
        })
        .expect("fits paths and ports");
        let after = serde_json::to_value(&settings).expect("JSON");
        let pointer = format!("/{}", variable.key.replace('.', "/"));
        let mut expected = before.clone();
        let field = expected.pointer_mut(&pointer).expect("there is such a key");
        *field = match field {
            serde_json::Value::Number(_) => 4321.into(),
            _ => "4321".into(),
        };
        assert_eq!(after, expected, "{}", variable.name);
    }
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_line_and_key() {
    let cases = [
        (
            "[api]\n\nprot = 1\n",
            "hearth.toml:3:1: api.prot: unknown field",
        ),
        ("a = 1\n", "hearth.toml:1:1: a: unknown field"),
        (
            "[api]\nport = \"x\"\n",
            "hearth.toml:2:8: api.port: invalid type",
        ),
        (
            "[api]\nport = 70000\n",
            "hearth.toml:2:8: api.port: invalid value",
        ),
        ("[api]\nport = \n", "hearth.toml:2:8: "),
        (
            "[tls.acme]\ncontact = \"a\"\n",
            "hearth.toml:1:1: tls.acme: missing field `directory`",
        ),
        (
            "[node]\nkeep_consoles = true\nwarm_pool_memory_percent = 101\n",
            "hearth.toml:3:1: node.warm_pool_memory_percent: must be at most 100",
        ),
        (
            "[node]\nlisten = \"0.0.0.0:0\"\n",
            "hearth.toml:2:1: node.listen: needs a port",
        ),
        (
            "[node]\nadvertise = \"a:1\"\n",
            "hearth.toml:2:1: node.advertise: needs node.listen too",
        ),
        (
            "[cluster]\nlisten = \"0.0.0.0:0\"\n",
            "hearth.toml:2:1: cluster.listen: needs a port",
        ),
        (
            "[tls]\nkey = \"/k\"\n",
            "hearth.toml:2:1: tls.key: needs tls.certificate",
        ),
        (
            "[network]\ndeny = [\"a\"]\n",
            "hearth.toml:2:1: network.deny: \"a\" is not",
        ),
        (
            "network.slot_range = \"10.0.0.0\"\n",
            "hearth.toml:1:9: network.slot_range: is not",
        ),
        (
            "[rate_limits]\nwrite_burst = 0\n",
            "hearth.toml:2:1: rate_limits.write_burst: must be at least 1",
        ),
        (
            "[node]\ngrpc_address = \"127.0.0.1:1\"\n",
            "hearth.toml:2:1: node.grpc_address: needs",
        ),
    ];
    for (text, expected) in cases {
        let error = Settings::from_text(Path::new("hearth.toml"), text, |_| None)
            .expect_err("there is a mistake");
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[test]
fn builds_trust_what_sandboxes_do_unless_told_otherwise() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        Some(path)
    };
    let pem = "-----BEGIN CERTIFICATE-----\n";
    let mut settings = Settings::default();
    assert_eq!(settings.build_certificates().expect("none"), None);
    settings.node.ca_file = file("site.pem", pem);
    assert_eq!(
        settings.build_certificates().expect("read").as_deref(),
        Some(pem)
    );
    settings.builds.ca_file = file("builds.pem", &format!("{pem}builds"));
    let builds = settings.build_certificates().expect("read");
    assert_eq!(builds, Some(format!("{pem}builds")));
    settings.node.ca_file = file("key.pem", "-----BEGIN PRIVATE KEY-----\n");
    let error = settings.certificates().expect_err("no certificate");
    assert!(error.to_string().contains("key.pem"), "{error}");
}
