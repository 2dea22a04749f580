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
        assert_eq!(rules.decide(SOMEWHERE, None), Decision::ByAddress);
        assert_eq!(rules.lookup("example.com"), Lookup::Resolve);
    }
}

#[test]
fn no_internet_is_a_denial_of_everything_that_allowances_win_over() {
    let off = Rules::parse(Some(false), "").unwrap();
    assert_eq!(off.policy(), Policy::offline());
    assert_eq!(off.lookup("example.com"), Lookup::Refuse);
    let some = Rules::parse(Some(false), r#"{"allowOut":["203.0.113.0/24"]}"#).unwrap();
    assert_eq!(some.decide(SOMEWHERE, None), Decision::ByAddress);
    assert_eq!(some.decide([198, 51, 100, 9].into(), None), Decision::Deny);
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
        rules.decide(SOMEWHERE, Some("example.com")),
        Decision::ByName
    );
    assert_eq!(
        rules.decide(SOMEWHERE, Some("a.example.org")),
        Decision::ByName
    );
    assert_eq!(rules.decide(SOMEWHERE, Some("evil.test")), Decision::Deny);
    assert_eq!(rules.decide(SOMEWHERE, None), Decision::Deny);
    assert_eq!(
        rules.decide([198, 51, 100, 1].into(), None),
        Decision::ByAddress
    );
    assert_eq!(rules.lookup("a.example.org"), Lookup::Resolve);
    assert_eq!(rules.lookup("evil.test"), Lookup::Refuse);
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
    assert_eq!(some.decide([9, 9, 9, 9].into(), None), Decision::ByAddress);
    assert_eq!(with("[]").lookup("example.com"), Lookup::Refuse);
}

#[test]
fn the_most_precise_transform_counts() {
    let rules = rules(
        r#"{"rules":{"*.com":[{"transform":{"headers":{"a":"1"}}}],
            "*.example.com":[{"transform":{"headers":{"a":"2"}}}],
            "api.example.com":[{"transform":{"headers":{"a":"3"}}}]}}"#,
    );
    let value = |name: &str| rules.transform(name).map(|t| t.headers["a"].as_str());
    assert_eq!(value("api.example.com"), Some("3"));
    assert_eq!(value("x.example.com"), Some("2"));
    assert_eq!(value("x.com"), Some("1"));
    assert_eq!(value("x.org"), None);
    assert_eq!(rules.policy().divert, Divert::Ports(vec![443]));
    assert_eq!(
        rules.decide(SOMEWHERE, Some("api.example.com")),
        Decision::ByAddress
    );
}

#[test]
fn a_proxy_of_the_users_takes_all_tcp() {
    let rules =
        rules(r#"{"egressProxy":{"address":"proxy.test:1080"},"denyOut":["203.0.113.0/24"]}"#);
    assert_eq!(rules.policy().divert, Divert::Everything);
    assert_eq!(rules.decide(SOMEWHERE, None), Decision::Deny);
}

#[test]
fn damaged_settings_are_an_error() {
    for json in [
        "{",
        r#"{"denyOut":["example.com"]}"#,
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
        prop_assert_eq!(rules.decide(address, None) != Decision::Deny, kernel);
    }
}
