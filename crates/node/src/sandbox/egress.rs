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
use hearth_egress::{Identity, Rules};
use hearth_network::{Adoption, Policy, Slot};

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
        template_id: spec.template_id.to_string(),
    };
    shared.egress.enter(slot.host_address, identity, rules);
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
    shared.egress.change(slot.host_address, rules);
    set(shared, slot, policy).await
}

async fn set(shared: &Shared, slot: &Slot, policy: Policy) -> Result<(), Error> {
    shared
        .slots
        .set_policy(slot, policy)
        .await
        .map_err(Error::step("set what the sandbox may reach"))
}

/// A slot that a sandbox of an earlier daemon runs in, with its policy.
pub(crate) fn adoption(index: u32, spec: &SandboxSpec) -> Adoption {
    Adoption {
        index,
        policy: rules(spec).policy(),
    }
}
