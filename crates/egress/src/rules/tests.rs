use proptest::prelude::*;

use super::*;

const SOMEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

fn rules(json: &str) -> Rules {
    Rules::parse(None, json).unwrap()
}

#[test]
fn without_settings_everything_is_open_and_stays_in_the_kernel() {
    for json in ["", "null", "{}", r#"{"allowPublicTraffic":false}"#] {
        let rules = rules(json);
        assert!(rules.policy().is_plain());
        assert_eq!(rules.decide(SOMEWHERE, 443, None), Decision::ByAddress);
        assert_eq!(rules.lookup(Some("example.com")), Lookup::Resolve);
    }
}

#[test]
fn no_internet_is_a_denial_of_everything_that_allowances_win_over() {
    let off = Rules::parse(Some(false), "").unwrap();
    assert_eq!(off.policy(), Policy::offline());
    assert_eq!(off.lookup(Some("example.com")), Lookup::Refuse);
    let some = Rules::parse(Some(false), r#"{"allowOut":["203.0.113.0/24"]}"#).unwrap();
    assert_eq!(some.decide(SOMEWHERE, 443, None), Decision::ByAddress);
    assert_eq!(
        some.decide([198, 51, 100, 9].into(), 443, None),
        Decision::Deny
    );
    assert_eq!(some.policy().divert, Divert::Nothing);
}

#[test]
fn names_are_decided_by_the_proxy() {
    let rules = rules(
        r#"{"allowOut":["Example.com","*.example.org","198.51.100.1"],"denyOut":["0.0.0.0/0"]}"#,
    );
    let policy = rules.policy();
    assert_eq!(policy.divert, Divert::Undecided);
    assert!(policy.divert_dns);
    assert_eq!(
        rules.decide(SOMEWHERE, 443, Some("example.com")),
        Decision::ByName
    );
    assert_eq!(
        rules.decide(SOMEWHERE, 443, Some("a.example.org")),
        Decision::ByName
    );
    assert_eq!(
        rules.decide(SOMEWHERE, 443, Some("evil.test")),
        Decision::Deny
    );
    assert_eq!(rules.decide(SOMEWHERE, 443, None), Decision::Deny);
    assert_eq!(
        rules.decide([198, 51, 100, 1].into(), 443, None),
        Decision::ByAddress
    );
    assert_eq!(rules.lookup(Some("a.example.org")), Lookup::Resolve);
    // It may be a name of the address that is allowed.
    assert_eq!(rules.lookup(Some("evil.test")), Lookup::Resolve);
}

#[test]
fn names_resolve_where_an_address_is_allowed() {
    let deny = r#""denyOut":["0.0.0.0/0"]"#;
    for allow in ["0.0.0.0/0", "203.0.113.7", "198.51.100.0/24"] {
        let rules = rules(&format!(r#"{{"allowOut":["{allow}"],{deny}}}"#));
        assert_eq!(rules.lookup(Some("any.test")), Lookup::Resolve, "{allow}");
        assert_eq!(rules.lookup(None), Lookup::Resolve, "{allow}");
    }
    let by_name = rules(&format!(r#"{{"allowOut":["*.example.org:8443"],{deny}}}"#));
    assert_eq!(by_name.lookup(Some("a.example.org")), Lookup::Resolve);
    assert_eq!(by_name.lookup(Some("any.test")), Lookup::Refuse);
    assert_eq!(by_name.lookup(None), Lookup::Refuse);
    let nothing = rules(&format!("{{{deny}}}"));
    assert_eq!(nothing.lookup(Some("any.test")), Lookup::Refuse);
}

#[test]
fn a_name_is_allowed_at_its_port_alone() {
    let rules =
        rules(r#"{"allowOut":["3000-x.box.test:3443","any.test"],"denyOut":["0.0.0.0/0"]}"#);
    let at = |port, name| rules.decide(SOMEWHERE, port, Some(name));
    assert_eq!(at(3443, "3000-x.box.test"), Decision::ByName);
    assert_eq!(at(443, "3000-x.box.test"), Decision::Deny);
    assert_eq!(at(22, "any.test"), Decision::ByName);
    assert!(rules.edge_permits(3443, &[Some("3000-x.box.test")]));
    assert!(!rules.edge_permits(3000, &[Some("3000-x.box.test")]));
    assert!(!rules.edge_permits(3443, &[Some("3001-x.box.test")]));
    assert!(!rules.edge_permits(3443, &[None]));
}

#[test]
fn sandboxes_are_denied_by_name_at_every_port() {
    let denied = r#""denyOut":["3000-x.box.test:3443"]"#;
    let some = rules(&format!("{{{denied}}}"));
    assert!(some.policy().is_plain(), "the kernel has nothing to do");
    for port in [3000, 3443] {
        assert!(!some.edge_permits(port, &[Some("3000-x.box.test")]));
        assert!(some.edge_permits(port, &[Some("3001-x.box.test")]));
    }
    // What is allowed wins.
    for allow in ["3000-x.box.test", "0.0.0.0/0"] {
        let both = rules(&format!(r#"{{"allowOut":["{allow}"],{denied}}}"#));
        assert!(
            both.edge_permits(3443, &[Some("3000-x.box.test")]),
            "{allow}"
        );
    }
    let all = rules(r#"{"allowOut":["0.0.0.0/0"],"denyOut":["0.0.0.0/0"]}"#);
    assert!(all.edge_permits(3443, &[Some("3000-x.box.test")]));
}

#[test]
fn transforms_hold_at_their_port() {
    let rules = rules(
        r#"{"rules":{"a.test":[{"transform":{"headers":{"a":"1"}}}],
            "a.test:8443":[{"transform":{"headers":{"a":"2"}}}]}}"#,
    );
    let at = |port, edge| {
        rules
            .transform("a.test", port, edge)
            .map(|t| t.headers["a"].as_str())
    };
    assert_eq!(at(443, false), Some("1"));
    assert_eq!(at(8443, false), Some("2"));
    assert_eq!(at(9443, false), None, "HTTPS is expected at its usual port");
    assert_eq!(at(9443, true), Some("1"), "and at those of the edge");
    assert_eq!(rules.policy().divert, Divert::Ports(vec![443, 8443]));
    assert!(rules.expects_https(8443) && !rules.expects_https(9443));
}

#[test]
fn named_dns_servers_are_reached_directly_and_an_empty_list_is_none() {
    let with = |servers: &str| {
        rules(&format!(
            r#"{{"allowOut":["example.com"],"denyOut":["0.0.0.0/0"],"dnsServers":{servers}}}"#
        ))
    };
    let some = with(r#"["9.9.9.9"]"#);
    assert_eq!(
        some.policy().allow,
        [Ipv4Net::from(Ipv4Addr::new(9, 9, 9, 9))]
    );
    assert!(!some.policy().divert_dns);
    assert_eq!(
        some.decide([9, 9, 9, 9].into(), 53, None),
        Decision::ByAddress
    );
    assert_eq!(with("[]").lookup(Some("example.com")), Lookup::Refuse);
}

#[test]
fn the_most_precise_transform_counts() {
    let rules = rules(
        r#"{"rules":{"*.com":[{"transform":{"headers":{"a":"1"}}}],
            "*.example.com":[{"transform":{"headers":{"a":"2"}}}],
            "api.example.com":[{"transform":{"headers":{"a":"3"}}}]}}"#,
    );
    let value = |name: &str| {
        rules
            .transform(name, 443, false)
            .map(|t| t.headers["a"].as_str())
    };
    assert_eq!(value("api.example.com"), Some("3"));
    assert_eq!(value("x.example.com"), Some("2"));
    assert_eq!(value("x.com"), Some("1"));
    assert_eq!(value("x.org"), None);
    assert_eq!(rules.policy().divert, Divert::Ports(vec![443]));
    assert_eq!(
        rules.decide(SOMEWHERE, 443, Some("api.example.com")),
        Decision::ByAddress
    );
}

#[test]
fn a_proxy_of_the_users_takes_all_tcp() {
    let rules =
        rules(r#"{"egressProxy":{"address":"proxy.test:1080"},"denyOut":["203.0.113.0/24"]}"#);
    assert_eq!(rules.policy().divert, Divert::Everything);
    assert_eq!(rules.decide(SOMEWHERE, 443, None), Decision::Deny);
}

#[test]
fn damaged_settings_are_an_error() {
    for json in [
        "{",
        r#"{"denyOut":["a b"]}"#,
        r#"{"allowOut":["a b"]}"#,
        "[1]",
    ] {
        assert!(Rules::parse(None, json).is_err(), "{json}");
    }
}

proptest! {
    /// Where the kernel alone decides, it decides as the proxy would.
    #[test]
    fn kernel_and_proxy_agree(
        allow in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..4),
        deny in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..4),
        internet in prop::option::of(any::<bool>()),
        address in any::<u32>(),
    ) {
        let list = |nets: &[(u32, u8)]| -> Vec<String> {
            nets.iter().map(|(a, p)| format!("{}/{p}", Ipv4Addr::from(*a))).collect()
        };
        let json = serde_json::json!({"allowOut": list(&allow), "denyOut": list(&deny)});
        let rules = Rules::parse(internet, &json.to_string()).unwrap();
        let policy = rules.policy();
        let address = Ipv4Addr::from(address);
        let within = |nets: &[Ipv4Net]| nets.iter().any(|net| net.contains(&address));
        let kernel = within(&policy.allow) || !within(&policy.deny);
        prop_assert_eq!(policy.divert, Divert::Nothing);
        prop_assert_eq!(rules.decide(address, 443, None) != Decision::Deny, kernel);
    }
}
