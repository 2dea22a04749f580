//! Who may look at and change what belongs to the whole installation. The one place that
//! says how an operator proves it.

use crate::error::{Failure, Result};
use crate::extract::access;
use crate::guard;
use crate::state::AppState;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;

/// A request of the operator's.
pub(crate) struct Operator;

impl FromRequestParts<AppState> for Operator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self> {
        let caller = guard::caller(&parts.extensions)?;
        state.control.may_operate(&caller, access(&parts.method))?;
        Ok(Self)
    }
}
