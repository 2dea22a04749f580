//! Teams.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Team {
    #[serde(rename = "teamID")]
    pub team_id: String,
    pub name: String,
    /// The key that the request was made with.
    pub api_key: String,
    /// Clients choose the team of which this is true.
    pub is_default: bool,
}

// Not derived: a key is in no log.
impl fmt::Debug for Team {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Team");
        shown.field("team_id", &self.team_id);
        shown.field("name", &self.name).finish_non_exhaustive()
    }
}
