//! The routes, one file per resource.

mod change;
mod docker_builds;
mod health;
mod lifecycle;
mod list;
mod logs;
mod metrics;
mod pages;
mod sandboxes;
mod secrets;
mod teams;
mod template_builds;
mod template_changes;
mod templates;
pub(crate) mod uploads;
mod volumes;

use crate::state::AppState;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes as collect;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    let routes = OpenApiRouter::with_openapi(crate::openapi::base());
    volumes::add(pages::add(docker_builds::add(routes)))
        .routes(collect!(health::health))
        .routes(collect!(list::list_first, sandboxes::create_first))
        .routes(collect!(list::list_second, sandboxes::create_second))
        .routes(collect!(metrics::of_many))
        .routes(collect!(sandboxes::detail, sandboxes::delete))
        .routes(collect!(sandboxes::connect_first))
        .routes(collect!(sandboxes::connect_second))
        .routes(collect!(change::timeout))
        .routes(collect!(change::refresh))
        .routes(collect!(change::network))
        .routes(collect!(metrics::of_one))
        .routes(collect!(logs::first))
        .routes(collect!(logs::second))
        .routes(collect!(lifecycle::pause))
        .routes(collect!(lifecycle::resume))
        .routes(collect!(lifecycle::fork))
        .routes(collect!(lifecycle::rollback))
        .routes(collect!(lifecycle::snapshot))
        .routes(collect!(lifecycle::snapshots))
        .routes(collect!(secrets::list, secrets::create))
        .routes(collect!(secrets::info, secrets::update, secrets::destroy))
        .routes(collect!(teams::list))
        .routes(collect!(templates::list_first))
        .routes(collect!(
            templates::list_second,
            template_builds::register_second
        ))
        .routes(collect!(template_builds::register_third))
        .routes(collect!(template_builds::files))
        .routes(collect!(template_builds::start))
        .routes(collect!(template_builds::status))
        .routes(collect!(template_builds::logs))
        .routes(collect!(template_builds::cancel))
        .routes(collect!(template_changes::update_second))
        .routes(collect!(
            template_changes::tags_assign,
            template_changes::tags_delete
        ))
        .routes(collect!(templates::list_default))
        .routes(collect!(
            templates::detail,
            templates::delete,
            template_changes::update_first
        ))
        .routes(collect!(templates::tags))
        .routes(collect!(templates::alias))
}
