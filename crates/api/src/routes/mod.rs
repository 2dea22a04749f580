//! The routes, one file per resource.

mod admin;
mod api_keys;
mod change;
mod docker_builds;
mod events;
mod health;
mod lifecycle;
mod list;
mod login;
mod logs;
mod metrics;
mod nodes;
mod pages;
mod sandboxes;
mod secrets;
mod teams;
mod template_builds;
mod template_changes;
mod template_tags;
mod templates;
pub(crate) mod uploads;
mod usage;
pub(crate) mod volume_content;
mod volumes;
mod webhooks;

use crate::state::AppState;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes as collect;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    let routes = OpenApiRouter::with_openapi(crate::openapi::base());
    let routes = login::add(pages::add(docker_builds::add(routes)));
    let routes = nodes::add(admin_routes(team_routes(template_routes(routes))));
    routes
        .routes(collect!(health::health_check))
        .routes(collect!(
            list::sandbox_list_v1,
            sandboxes::sandbox_create_v1
        ))
        .routes(collect!(
            list::sandbox_list_v2,
            sandboxes::sandbox_create_v2
        ))
        .routes(collect!(metrics::sandbox_metrics_list))
        .routes(collect!(sandboxes::sandbox_get, sandboxes::sandbox_delete))
        .routes(collect!(sandboxes::sandbox_connect_v1))
        .routes(collect!(sandboxes::sandbox_connect_v2))
        .routes(collect!(change::sandbox_set_timeout))
        .routes(collect!(change::sandbox_refresh))
        .routes(collect!(change::sandbox_set_network))
        .routes(collect!(metrics::sandbox_metrics))
        .routes(collect!(logs::sandbox_logs_v1))
        .routes(collect!(logs::sandbox_logs_v2))
        .routes(collect!(lifecycle::sandbox_pause))
        .routes(collect!(lifecycle::sandbox_resume))
        .routes(collect!(lifecycle::sandbox_fork))
        .routes(collect!(lifecycle::sandbox_rollback))
        .routes(collect!(lifecycle::snapshot_create))
        .routes(collect!(lifecycle::snapshot_list))
        .routes(collect!(secrets::secret_list, secrets::secret_create))
        .routes(collect!(
            secrets::secret_get,
            secrets::secret_update,
            secrets::secret_delete
        ))
        .routes(collect!(volumes::volume_list, volumes::volume_create))
        .routes(collect!(volumes::volume_get, volumes::volume_delete))
        .routes(collect!(volumes::volume_copy))
        .routes(collect!(volumes::volume_usage))
        .routes(collect!(events::event_list))
        .routes(collect!(events::event_list_of_sandbox))
        .routes(collect!(webhooks::webhook_list, webhooks::webhook_create))
        .routes(collect!(
            webhooks::webhook_get,
            webhooks::webhook_update,
            webhooks::webhook_delete
        ))
        .routes(collect!(webhooks::webhook_deliveries))
        .routes(collect!(webhooks::webhook_stats))
        .routes(collect!(webhooks::webhook_redeliver))
}

/// What a team is told of itself, and its keys.
fn team_routes(routes: OpenApiRouter<AppState>) -> OpenApiRouter<AppState> {
    routes
        .routes(collect!(teams::team_list))
        .routes(collect!(teams::team_metrics))
        .routes(collect!(teams::team_metrics_max))
        .routes(collect!(usage::usage_get))
        .routes(collect!(usage::usage_sandboxes))
        .routes(collect!(api_keys::api_key_list, api_keys::api_key_create))
        .routes(collect!(api_keys::api_key_update, api_keys::api_key_delete))
}

/// Templates, their builds and their tags.
fn template_routes(routes: OpenApiRouter<AppState>) -> OpenApiRouter<AppState> {
    template_tags::add(routes)
        .routes(collect!(templates::template_list_v1))
        .routes(collect!(
            templates::template_list_v2,
            template_builds::template_build_create_v2
        ))
        .routes(collect!(template_builds::template_build_create_v3))
        .routes(collect!(template_builds::template_files_get))
        .routes(collect!(template_builds::template_build_start))
        .routes(collect!(template_builds::template_build_status))
        .routes(collect!(template_builds::template_build_logs))
        .routes(collect!(template_builds::template_build_cancel))
        .routes(collect!(template_changes::template_update_v2))
        .routes(collect!(
            template_changes::template_tags_assign,
            template_changes::template_tags_delete
        ))
        .routes(collect!(templates::template_list_default))
        .routes(collect!(
            templates::template_get,
            templates::template_delete,
            template_changes::template_update_v1
        ))
        .routes(collect!(templates::template_tags_list))
        .routes(collect!(templates::template_alias_get))
}

/// The routes of operators.
fn admin_routes(routes: OpenApiRouter<AppState>) -> OpenApiRouter<AppState> {
    routes
        .routes(collect!(admin::admin_team_list, admin::admin_team_create))
        .routes(collect!(
            admin::admin_team_get,
            admin::admin_team_update,
            admin::admin_team_delete
        ))
        .routes(collect!(admin::admin_sandboxes_kill))
        .routes(collect!(admin::admin_builds_cancel))
        .routes(collect!(admin::admin_running_counts))
        .routes(collect!(usage::admin_usage))
        .routes(collect!(admin::admin_api_key_create))
        .routes(collect!(admin::admin_api_key_delete))
}
