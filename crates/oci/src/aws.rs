//! AWS keys become a name and a password for its registries: one signed request
//! (Signature Version 4) to the registries' service.

use crate::{
    Error,
    client::{Http, message},
    login::Login,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};

const SERVICE: &str = "ecr";
const TARGET: &str = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
const BODY: &str = "{}";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

pub(crate) async fn login(
    http: &Http,
    endpoint: Option<&str>,
    access_key_id: &str,
    secret: &SecretString,
    region: &str,
) -> Result<Login, Error> {
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if !plain(region) || !plain(access_key_id) {
        return Err(Error::Credentials(
            "the AWS region or key id is malformed".to_owned(),
        ));
    }
    let suffix = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    let endpoint = endpoint.map_or_else(
        || format!("https://api.ecr.{region}.{suffix}"),
        |endpoint| endpoint.trim_end_matches('/').to_owned(),
    );
    let uri: Uri = format!("{endpoint}/")
        .parse()
        .map_err(|_| Error::Credentials(format!("the AWS endpoint {endpoint:?} is none")))?;
    let host = uri.authority().map(ToString::to_string).unwrap_or_default();
    let headers = signed(&host, access_key_id, secret, region, Utc::now())?;
    let response = http
        .send(
            &host,
            Method::POST,
            &uri,
            &headers,
            Bytes::from_static(BODY.as_bytes()),
        )
        .await?;
    let status = response.status();
    let body = http.read(&host, response).await?;
    if status != StatusCode::OK {
        return Err(Error::Unauthorized {
            registry: host,
            image: "a token".to_owned(),
            why: message(status, &body, false),
        });
    }
    token(&body).ok_or_else(|| Error::Protocol {
        registry: host,
        what: "an answer without a token".to_owned(),
    })
}

fn token(body: &[u8]) -> Option<Login> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        authorization_data: Vec<One>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct One {
        authorization_token: String,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let token = answer
        .authorization_data
        .into_iter()
        .next()?
        .authorization_token;
    let text = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Login {
        username: username.to_owned(),
        password: password.into(),
    })
}

/// The request's headers with its signature.
fn signed(
    host: &str,
    access_key_id: &str,
    secret: &SecretString,
    region: &str,
    now: DateTime<Utc>,
) -> Result<HeaderMap, Error> {
    let time = now.format("%Y%m%dT%H%M%SZ").to_string();
    let day = now.format("%Y%m%d").to_string();
    let names = "content-type;host;x-amz-date;x-amz-target";
    let canonical = format!(
        "POST\n/\n\ncontent-type:{CONTENT_TYPE}\nhost:{host}\nx-amz-date:{time}\n\
         x-amz-target:{TARGET}\n\n{names}\n{}",
        hex::encode(Sha256::digest(BODY.as_bytes()))
    );
    let scope = format!("{day}/{region}/{SERVICE}/aws4_request");
    let text = format!(
        "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
        hex::encode(Sha256::digest(canonical.as_bytes()))
    );
    let key = signing_key(secret.expose_secret(), &day, region, SERVICE);
    let signature = hex::encode(mac(&key, text.as_bytes()));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}, SignedHeaders={names}, \
         Signature={signature}"
    );
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", CONTENT_TYPE),
        ("x-amz-date", &time),
        ("x-amz-target", TARGET),
        ("authorization", &authorization),
    ] {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Error::Credentials("the AWS key id is malformed".to_owned()))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

fn signing_key(secret: &str, day: &str, region: &str, service: &str) -> Vec<u8> {
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [day, region, service, "aws4_request"] {
        key = mac(&key, part.as_bytes());
    }
    key
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signing_key_is_the_documented_one() {
        // The example in AWS's description of the signature.
        let key = signing_key(
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            "20150830",
            "us-east-1",
            "iam",
        );
        assert_eq!(
            hex::encode(key),
            "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
        );
    }

    #[test]
    fn tokens_are_read() {
        let token_text = STANDARD.encode("AWS:secret:with:colons");
        let body = format!(r#"{{"authorizationData":[{{"authorizationToken":"{token_text}"}}]}}"#);
        let login = token(body.as_bytes()).expect("a token");
        assert_eq!(login.username, "AWS");
        assert_eq!(login.password.expose_secret(), "secret:with:colons");
        assert!(token(b"{}").is_none());
    }
}
