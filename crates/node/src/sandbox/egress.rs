//! What a sandbox may reach, from its settings to the kernel and to the node's
//! services for guests.
//!
//! The settings are the sandbox's alone and are kept with it, so they are in force
//! again after a resume or a restart of the daemon. The services learn of a change
//! before the kernel sends them anything new.

use crate::{
    error::{Error, chain},
    node::Shared,
    spec::SandboxSpec,
};
use hearth_agent_client::Agent;
use hearth_egress::{Authority, Identity, Rules};
use hearth_network::{Adoption, Policy, Slot};
use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

/// Key and certificate of a sandbox's authority, in its directory.
const AUTHORITY_FILE: &str = "authority.pem";
/// Where the agent puts certificates: among the usual ones, and by themselves.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const CERTIFICATE: &str = "/usr/local/share/ca-certificates/e2b-ca.crt";
/// Node.js adds to what it brings; parsing the whole bundle would only delay it.
const CERTIFICATE_VARIABLES: [(&str, &str); 4] = [
    ("REQUESTS_CA_BUNDLE", BUNDLE),
    ("PIP_CERT", BUNDLE),
    ("SSL_CERT_FILE", BUNDLE),
    ("NODE_EXTRA_CA_CERTS", CERTIFICATE),
];

/// The rules of a sandbox. Settings that cannot be read leave it nothing.
pub(crate) fn rules(spec: &SandboxSpec) -> Rules {
    Rules::parse(spec.allow_internet_access, &spec.network_json).unwrap_or_else(|error| {
        tracing::error!(sandbox = %spec.sandbox_id, error = %chain(&error), "a sandbox has no network");
        Rules::offline()
    })
}

/// Puts a sandbox on the network: its slot is new, or its own from before.
pub(crate) async fn enter(shared: &Shared, spec: &SandboxSpec, slot: &Slot) -> Result<(), Error> {
    let rules = rules(spec);
    let policy = rules.policy();
    announce(shared, spec, slot, rules);
    if policy.is_plain() {
        return Ok(());
    }
    set(shared, slot, policy).await
}

/// Tells the services who is behind a slot whose policy the kernel has already.
pub(crate) fn announce(shared: &Shared, spec: &SandboxSpec, slot: &Slot, rules: Rules) {
    let identity = Identity {
        sandbox_id: spec.sandbox_id.clone(),
        team_id: spec.team_id.to_string(),
    };
    shared.egress.enter(slot.host_address, identity, rules);
    if let Err(error) = authority(shared, spec, slot.host_address) {
        tracing::error!(sandbox = %spec.sandbox_id, error = %chain(&error), "a sandbox's requests cannot be changed");
    }
}

/// The authority that a sandbox trusts; none where no request is changed. It is
/// kept with the sandbox, so that the guest need not be told twice.
pub(crate) fn authority(
    shared: &Shared,
    spec: &SandboxSpec,
    address: Ipv4Addr,
) -> Result<Option<Arc<Authority>>, Error> {
    if !rules(spec).has_transforms() {
        return Ok(None);
    }
    if let Some(authority) = shared.egress.authority(address) {
        return Ok(Some(authority));
    }
    let path = shared.journals.dir(&spec.sandbox_id).join(AUTHORITY_FILE);
    let authority = Authority::open_or_create(&path)
        .map_err(Error::step("make the sandbox's certificate authority"))?;
    let authority = Arc::new(authority);
    shared.egress.trust(address, Arc::clone(&authority));
    Ok(Some(authority))
}

/// What a sandbox's programs trust beside the usual: the site's certificates and the
/// authority of its changed requests; none where there is neither.
pub(crate) fn ca_bundle(shared: &Shared, authority: Option<&Authority>) -> Option<String> {
    let site = shared.config.ca_bundle.as_deref();
    let parts: Vec<&str> = site
        .into_iter()
        .chain(authority.map(Authority::pem))
        .map(str::trim_end)
        .collect();
    (!parts.is_empty()).then(|| parts.join("\n") + "\n")
}

/// The template's variables with the sandbox's over them, and those by which programs
/// that bring certificates of their own find the ones that are trusted here; what the
/// user says of them counts.
pub(crate) fn environment(
    template: BTreeMap<String, String>,
    spec: &SandboxSpec,
    certificates: bool,
) -> BTreeMap<String, String> {
    let mut variables = template;
    variables.extend(spec.env_vars.clone());
    if certificates {
        for (name, path) in CERTIFICATE_VARIABLES {
            variables
                .entry(name.to_owned())
                .or_insert_with(|| path.to_owned());
        }
    }
    variables
}

/// Puts new settings in the place of the old ones. They say all there is to say, a
/// denial of everything included.
pub(crate) fn replace(spec: &mut SandboxSpec, network_json: String) {
    spec.network_json = network_json;
    spec.allow_internet_access = None;
    spec.allow_internet_access = Some(!rules(spec).denies_everything());
}

/// Changes what a running sandbox may reach.
pub(crate) async fn change(shared: &Shared, spec: &SandboxSpec, slot: &Slot) -> Result<(), Error> {
    let rules = rules(spec);
    let policy = rules.policy();
    let address = slot.host_address;
    // The guest trusts the authority before any request of its is changed.
    if rules.has_transforms()
        && shared.egress.authority(address).is_none()
        && let Some(authority) = authority(shared, spec, address)?
    {
        let certificates = ca_bundle(shared, Some(&authority)).unwrap_or_default();
        let trusting = async {
            let agent = Agent::new(address).with_token(spec.envd_access_token.as_deref())?;
            let limit = shared.config.agent_timeout;
            agent.trust(&certificates, limit).await
        };
        trusting
            .await
            .map_err(Error::step("let the guest trust its certificate authority"))?;
    }
    shared.egress.change(address, rules);
    set(shared, slot, policy).await
}

async fn set(shared: &Shared, slot: &Slot, policy: Policy) -> Result<(), Error> {
    shared
        .slots
        .set_policy(slot, policy)
        .await
        .map_err(Error::step("set what the sandbox may reach"))
}

/// A slot that a sandbox of an earlier daemon runs in, with its policy: nothing,
/// where the settings are not known.
pub(crate) fn adoption(index: u32, spec: Option<&SandboxSpec>) -> Adoption {
    let rules = spec.map_or_else(Rules::offline, rules);
    Adoption {
        index,
        policy: rules.policy(),
    }
}
