use super::*;
use proptest::prelude::*;

const ALL: Features = Features {
    pause: true,
    egress_rules: true,
    egress_proxy: true,
    network_rules: true,
    identity_tokens: true,
};

const DOMAIN: &str = "box.test:3443";

fn list(entries: &[&str]) -> Option<Vec<String>> {
    Some(entries.iter().map(|entry| (*entry).to_owned()).collect())
}

fn refusal(settings: NetworkSettings) -> String {
    settings
        .check(ALL, false, DOMAIN)
        .expect_err("must be refused")
        .message
}

#[test]
fn domains_need_a_denial_of_everything() {
    let settings = NetworkSettings {
        allow_out: list(&["1.1.1.1", "*.example.com"]),
        ..Default::default()
    };
    assert!(refusal(settings.clone()).contains("network.allowOut[1]"));
    assert!(settings.clone().check(ALL, true, DOMAIN).is_ok());
    let denying = NetworkSettings {
        deny_out: list(&["10.0.0.0/8", "0.0.0.0/0"]),
        ..settings
    };
    assert!(denying.check(ALL, false, DOMAIN).is_ok());
}

#[test]
fn only_addresses_can_be_denied() {
    let message = refusal(NetworkSettings {
        deny_out: list(&["8.8.8.8", "example.com"]),
        ..Default::default()
    });
    assert!(message.contains("network.denyOut[1]"), "{message}");
}

#[test]
fn malformed_destinations_are_named() {
    for entry in ["1.2.3.4/33", "1.2.3", "", "a b", "-x.com", "*.", "*.*.com"] {
        let message = refusal(NetworkSettings {
            allow_out: list(&[entry]),
            deny_out: list(&["0.0.0.0/0"]),
            ..Default::default()
        });
        assert!(
            message.contains("network.allowOut[0]"),
            "{entry:?}: {message}"
        );
    }
}

#[test]
fn hosts_of_sandboxes_are_taken_as_the_sdks_write_them() {
    let id = SandboxId::random();
    let host = format!("3000-{id}.box.test:3443");
    let rule = BTreeMap::from([(host.to_uppercase(), vec![NetworkRule::default()])]);
    let settings = NetworkSettings {
        allow_out: list(&[&host, "*:443", "*.example.com:8443"]),
        deny_out: list(&["0.0.0.0/0", &host, &format!("3000-{id}.Box.test")]),
        rules: Some(rule),
        ..Default::default()
    };
    let normal = settings.check(ALL, false, DOMAIN).expect("valid");
    assert!(normal.rules.expect("kept").contains_key(&host));
    for entry in [
        "a.com:",
        "a.com:0",
        "a.com:70000",
        "a.com:+80",
        "1.2.3.4:80",
        ":80",
    ] {
        let message = refusal(NetworkSettings {
            allow_out: list(&[entry]),
            deny_out: list(&["0.0.0.0/0"]),
            ..Default::default()
        });
        assert!(
            message.contains("network.allowOut[0]"),
            "{entry}: {message}"
        );
        let rules = BTreeMap::from([(entry.to_owned(), Vec::new())]);
        let message = refusal(NetworkSettings {
            rules: Some(rules),
            ..Default::default()
        });
        assert!(message.contains("network.rules"), "{entry}: {message}");
    }
    // Names of others are addresses in disguise.
    for entry in [
        format!("3000-{id}.other.test"),
        format!("3000-{id}-6532622b.box.test"),
        "api.box.test".to_owned(),
        "box.test".to_owned(),
    ] {
        let message = refusal(NetworkSettings {
            deny_out: list(&[&entry]),
            ..Default::default()
        });
        assert!(message.contains("network.denyOut[0]"), "{entry}: {message}");
    }
}

#[test]
fn as_many_destinations_as_documented_fit() {
    let hosts = (0..1000).map(|number| format!("service-{number}.internal.example.com:443"));
    let nets = (0..1000).map(|number| format!("203.0.{}.{}/32", number / 250, number % 250));
    let settings = NetworkSettings {
        allow_out: Some(hosts.collect()),
        deny_out: Some(nets.chain(["0.0.0.0/0".to_owned()]).skip(1).collect()),
        ..Default::default()
    };
    settings.check(ALL, false, DOMAIN).expect("fits");
}

#[test]
fn the_agent_port_serves_no_https() {
    let message = refusal(NetworkSettings {
        https_ports: Some(vec![8443, 49983]),
        ..Default::default()
    });
    assert!(message.contains("network.httpsPorts[1]"), "{message}");
}

#[test]
fn rules_are_bounded_and_lower_case() {
    let rule = NetworkRule {
        transform: Some(HeaderTransform {
            headers: BTreeMap::from([("X-Key".to_owned(), "v".to_owned())]),
        }),
    };
    let with = |rules| NetworkSettings {
        rules: Some(rules),
        ..Default::default()
    };
    let one = with(BTreeMap::from([(
        "API.Example.com".to_owned(),
        vec![rule.clone()],
    )]));
    let normal = one.clone().check(ALL, false, DOMAIN).expect("valid");
    assert!(normal.rules.expect("kept").contains_key("api.example.com"));
    let off = one
        .check(Features::default(), false, DOMAIN)
        .expect_err("off");
    assert_eq!(off.kind, Kind::Forbidden);
    let many = (0..11).map(|i| (format!("d{i}.com"), vec![rule.clone()]));
    assert!(refusal(with(many.collect())).contains("at most 10"));
    let twice = BTreeMap::from([("d.com".to_owned(), vec![rule.clone(), rule])]);
    assert!(refusal(with(twice)).contains("at most 1"));
    assert!(refusal(with(BTreeMap::from([("*".to_owned(), vec![])]))).contains("no domain"));
}

#[test]
fn an_update_keeps_the_incoming_side() {
    let old = NetworkSettings {
        allow_public_traffic: Some(false),
        allow_out: list(&["1.1.1.1"]),
        ..Default::default()
    };
    let update = NetworkUpdate {
        allow_internet_access: Some(false),
        ..Default::default()
    };
    let new = update.apply(Some(&old));
    assert_eq!(new.allow_public_traffic, Some(false));
    assert_eq!(new.allow_out, None);
    assert_eq!(new.deny_out, list(&["0.0.0.0/0"]));
}

proptest! {
    #[test]
    fn nothing_that_callers_send_panics(a in ".{0,40}", b in ".{0,40}", c in ".{0,40}") {
        let settings = NetworkSettings {
            allow_out: list(&[&a]),
            deny_out: list(&[&b]),
            dns_servers: list(&[&c]),
            mask_request_host: Some(a.clone()),
            egress_proxy: Some(EgressProxy { address: b.clone(), username: None, password: None, tls: None }),
            rules: Some(BTreeMap::from([(c.clone(), vec![])])),
            ..Default::default()
        };
        let _ = settings.check(ALL, true, DOMAIN);
    }
}
