//! `[network]`: what sandboxes reach, and from which addresses.

use super::Problem;
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// What sandboxes reach, and from which addresses.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Network slots (a namespace with its devices and rules each) that are made before
    /// sandboxes need them.
    pub pool_size: u32,
    /// Network slots at most: one for each sandbox, warm sandbox and running build.
    pub max_slots: u32,
    /// IPv4 network of guests' addresses on this host. Where it is in use already,
    /// another one is chosen. Without it: `10.11.0.0/16`.
    #[schemars(example = "10.200.0.0/16")]
    pub slot_range: Option<String>,
    /// IPv4 network of the links between the host and the slots, chosen in the same way.
    /// Without it: `10.12.0.0/16`.
    #[schemars(example = "10.201.0.0/16")]
    pub link_range: Option<String>,
    /// Name servers that resolve guests' names, on port 53. Without it: the host's.
    #[schemars(example = &["192.0.2.53"])]
    pub name_servers: Option<Vec<IpAddr>>,
    /// File with certificates (PEM) of authorities that are trusted beside the host's
    /// where network rules change requests on their way. Without it: `node.ca_file`.
    #[schemars(example = "/etc/hearth/company-ca.pem")]
    pub trusted_ca_file: Option<PathBuf>,
    /// Connections to the outside that one sandbox may have at a time; 0 for any number.
    /// All sandboxes together may fill half of the host's table of tracked connections,
    /// which is made larger at the start, up to a 32nd of the memory: where that is not
    /// enough for all `max_slots`, each may have fewer.
    pub connections_max: u32,
    /// Megabits per second that one sandbox may send, and as many that it may receive;
    /// 0 for any number.
    pub bandwidth_mbit: u32,
    /// IPv4 networks or addresses that no sandbox may reach, whatever its own rules
    /// allow, such as `203.0.113.0/24`. Private, local and metadata addresses are denied
    /// anyway.
    pub deny: Vec<String>,
    /// Lets sandboxes connect to port 25 of other hosts, and so deliver mail.
    pub smtp: bool,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            pool_size: 8,
            max_slots: 512,
            slot_range: None,
            link_range: None,
            name_servers: None,
            trusted_ca_file: None,
            connections_max: 8192,
            bandwidth_mbit: 0,
            deny: Vec::new(),
            smtp: false,
        }
    }
}

impl NetworkSettings {
    /// `deny`, parsed; an address alone is a network of one.
    pub fn denied(&self) -> Result<Vec<Ipv4Net>, Problem> {
        let network = |text: &String| {
            text.parse()
                .or_else(|error| text.parse::<Ipv4Addr>().map(Into::into).map_err(|_| error))
                .map_err(|_| {
                    Problem::new("network.deny", format!("{text:?} is not an IPv4 network"))
                })
        };
        self.deny.iter().map(network).collect()
    }

    /// `slot_range` and `link_range`, parsed, where they are given.
    pub fn ranges(&self) -> Result<[Option<Ipv4Net>; 2], Problem> {
        Ok([
            range("network.slot_range", self.slot_range.as_deref())?,
            range("network.link_range", self.link_range.as_deref())?,
        ])
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        self.denied()?;
        self.ranges()?;
        Ok(())
    }
}

fn range(key: &'static str, text: Option<&str>) -> Result<Option<Ipv4Net>, Problem> {
    text.map(str::parse)
        .transpose()
        .map_err(|_| Problem::new(key, "is not an IPv4 network such as 10.200.0.0/16"))
}
