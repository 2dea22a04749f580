//! Which id a new sandbox gets: that of one which the node has made ahead, if it
//! has one of the template's build.

use super::create::NewSandbox;
use crate::{Control, auth::Caller};
use hearth_ids::SandboxId;

impl Control {
    /// An id for the sandbox of this request. Whatever stands in the way of a
    /// reservation is found again, and told, by the create itself.
    pub(super) async fn sandbox_new_id(&self, caller: &Caller, request: &NewSandbox) -> SandboxId {
        match self.reserved(caller, request).await {
            Some(id) => id,
            None => SandboxId::random(),
        }
    }

    async fn reserved(&self, caller: &Caller, request: &NewSandbox) -> Option<SandboxId> {
        let reference = Self::template_parse("templateID", &request.template).ok()?;
        let resolved = self.template_resolve(caller, &reference).await.ok()?;
        self.check_placement(resolved.build.id).ok()?;
        match self.node.reserve(resolved.build.id).await {
            Ok(reserved) => reserved,
            Err(error) => {
                tracing::debug!(%error, "no reservation");
                None
            }
        }
    }
}
