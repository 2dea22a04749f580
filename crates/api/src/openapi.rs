//! The OpenAPI document, generated from the routes and the wire types. The copy
//! in `docs/openapi.json` is checked against it by a test.

use crate::routes;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, Info, OpenApi, OpenApiBuilder};

/// The document.
#[must_use]
pub fn openapi() -> OpenApi {
    let (_router, mut document) = routes::routes().split_for_parts();
    let (_router, content) = routes::volume_content::routes().split_for_parts();
    document.merge(content);
    document
}

/// The document as it is checked in.
#[must_use]
pub fn openapi_json() -> String {
    let mut text = openapi()
        .to_pretty_json()
        .expect("the document holds nothing that JSON cannot");
    text.push('\n');
    text
}

/// What the document says apart from routes.
pub(crate) fn base() -> OpenApi {
    let mut info = Info::new("Hearth", env!("CARGO_PKG_VERSION"));
    info.description = Some("The control plane of Hearth, compatible with E2B clients.".to_owned());
    let mut components = Components::new();
    components.add_security_scheme(
        "ApiKeyAuth",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))),
    );
    components.add_security_scheme(
        "AdminToken",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-Admin-Token"))),
    );
    components.add_security_scheme(
        "VolumeToken",
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format("JWT")
                .build(),
        ),
    );
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .build()
}
