//! Rust: axum + jsonwebtoken, on one thread.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignIn {
    code: String,
    secret_key: String,
    application_id: String,
}

#[derive(Serialize)]
struct Profile {
    #[serde(rename = "_id")]
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    iat: f64,
    exp: f64,
    email: Option<String>,
    username: Option<String>,
}

struct Verifier {
    secrets: HashMap<String, [u8; 32]>,
    keys: HashMap<String, DecodingKey>,
    validations: HashMap<String, Validation>, // by application, because each is its own audience
    max_lifetime_s: f64,
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

fn algorithm_and_key() -> (Algorithm, DecodingKey) {
    let pem = std::fs::read(setting("PUBLIC")).expect("PUBLIC");
    match setting("ALG").as_str() {
        "ES256" => (Algorithm::ES256, DecodingKey::from_ec_pem(&pem).expect("key")),
        "EdDSA" => (Algorithm::EdDSA, DecodingKey::from_ed_pem(&pem).expect("key")),
        _ => (Algorithm::RS256, DecodingKey::from_rsa_pem(&pem).expect("key")),
    }
}

fn respond<T: Serialize>(status: StatusCode, body: T) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

fn reject(error: &str) -> Response {
    respond(StatusCode::UNAUTHORIZED, serde_json::json!({ "error": error }))
}

/// The claims of a token that holds, or nothing.
fn verify(verifier: &Verifier, code: &str, application_id: &str) -> Option<Claims> {
    let header = decode_header(code).ok()?;
    if header.typ.as_deref() != Some("at+jwt") {
        return None;
    }
    let key = verifier.keys.get(&header.kid?)?;
    let claims = decode::<Claims>(code, key, verifier.validations.get(application_id)?).ok()?.claims;
    let lifetime_s = claims.exp - claims.iat;
    (lifetime_s > 0.0 && lifetime_s <= verifier.max_lifetime_s && !claims.sub.is_empty()).then_some(claims)
}

async fn profile(State(verifier): State<Arc<Verifier>>, Json(body): Json<SignIn>) -> Response {
    let presented: [u8; 32] = Sha256::digest(body.secret_key.as_bytes()).into();
    let known = verifier.secrets.get(&body.application_id).copied().unwrap_or_default();
    if !bool::from(presented.ct_eq(&known)) {
        return reject("invalid_client");
    }
    match verify(&verifier, &body.code, &body.application_id) {
        Some(Claims { sub, email, username, .. }) => respond(StatusCode::OK, Profile { id: sub, email, username }),
        None => reject("invalid_token"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (algorithm, key) = algorithm_and_key();
    let application_id = setting("APPLICATION_ID");
    let mut validation = Validation::new(algorithm);
    validation.leeway = 30;
    validation.validate_nbf = true;
    validation.set_audience(&[&application_id]);
    validation.set_issuer(&[setting("ISSUER")]);
    validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    let verifier = Verifier {
        secrets: HashMap::from([(application_id.clone(), Sha256::digest(setting("SECRET").as_bytes()).into())]),
        keys: HashMap::from([(setting("KID"), key)]),
        validations: HashMap::from([(application_id, validation)]),
        max_lifetime_s: setting("MAX_LIFETIME").parse().expect("MAX_LIFETIME"),
    };
    let app = Router::new().route("/profile", post(profile)).with_state(Arc::new(verifier));
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{}", setting("PORT"))).await.expect("port");
    axum::serve(listener, app).await.expect("serve");
}
