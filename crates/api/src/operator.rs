//! Who may look at and change the machines of an installation: who shows the operators'
//! token, or a key of the first team that has the scope for it.

use crate::error::{Failure, Result};
use crate::extract::access;
use crate::guard;
use crate::state::AppState;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;

/// A request of an operator's.
pub(crate) struct NodeOperator;

impl FromRequestParts<AppState> for NodeOperator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self> {
        if guard::operator(&parts.extensions).is_ok() {
            return Ok(Self);
        }
        let caller = guard::caller(&parts.extensions)?;
        state.control.may_operate(&caller, access(&parts.method))?;
        Ok(Self)
    }
}
