//! The token that guards a daemon, and the rule that an open door needs one.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use protocol::{ApiError, ErrorCode};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::secret;
use crate::http::Failure;

/// A token that callers must show; never printed, zeroised when dropped.
#[derive(Debug, Clone)]
pub struct Token(SecretString);

impl Token {
    /// Takes a token as it was configured: a value, `env:NAME` or `file:PATH`.
    pub fn from_setting(setting: &str) -> Result<Self, String> {
        let value = secret(setting).map_err(|error| format!("cannot read the token: {error}"))?;
        match value.trim() {
            "" => Err("the token is empty; leave it out or give it a value".to_owned()),
            value => Ok(Self(value.to_owned().into())),
        }
    }

    /// The token in clear, for handing it to a peer.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    fn matches(&self, shown: &str) -> bool {
        self.expose().as_bytes().ct_eq(shown.as_bytes()).into()
    }
}

/// Loopback may go without a token; any other address without one is refused.
pub fn check_bind(ip: IpAddr, token: Option<&Token>) -> Result<(), String> {
    if ip.is_loopback() || token.is_some() {
        return Ok(());
    }
    Err(format!(
        "refusing to listen on {ip} without a token: anyone on the network could use this server; \
         set one with --token, or listen on 127.0.0.1"
    ))
}

/// Who asks, as far as that is known: whoever shows the same credential is the same caller, and without a token
/// everyone is. In the extensions of every request that passed the door.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller(Arc<str>);

impl Caller {
    /// Of whom shows this token, which cannot be told from it.
    fn of(token: Option<&Token>) -> Self {
        let Some(token) = token else { return Self("anyone".into()) };
        let digest = Sha256::digest(token.expose());
        let first = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Self(format!("{first:016x}").into())
    }

    /// The name that what the caller owns is kept under.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The lock of a door: the token, and who shows it.
#[derive(Debug, Clone)]
pub struct Door {
    token: Option<Token>,
    caller: Caller,
}

impl Door {
    /// A door that wants this token, or none.
    pub fn new(token: Option<Token>) -> Self {
        Self { caller: Caller::of(token.as_ref()), token }
    }

    /// Lets a request in if it shows the token, or if there is none, and tells inside who asks.
    pub fn let_in(&self, request: &mut Request) -> Result<(), ApiError> {
        check(self.token.as_ref(), request.headers())?;
        request.extensions_mut().insert(self.caller.clone());
        Ok(())
    }
}

/// The door as a layer.
pub async fn require_token(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    match door.let_in(&mut request) {
        Ok(()) => next.run(request).await,
        Err(error) => Failure(error).into_response(),
    }
}

fn check(token: Option<&Token>, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(token) = token else { return Ok(()) };
    match shown_credential(headers) {
        Some(shown) if token.matches(shown) => Ok(()),
        Some(_) => Err(ApiError::new(
            ErrorCode::InvalidApiKey,
            "The credential is not the one this server was given.",
        )),
        None => Err(ApiError::new(
            ErrorCode::InvalidApiKey,
            "This server wants a credential and the request has none.",
        )),
    }
}

/// The credential of a request: `Authorization: Bearer` in any case, `x-api-key` or `api-key`.
fn shown_credential(headers: &HeaderMap) -> Option<&str> {
    let bearer = || {
        let (scheme, value) = headers.get("authorization")?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(value.trim())
    };
    let plain = |name| headers.get(name)?.to_str().ok();
    bearer().or_else(|| plain("x-api-key")).or_else(|| plain("api-key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn every_accepted_way_to_show_a_token_works() {
        let token = Token::from_setting("s3cret").unwrap();
        for (name, value) in [
            ("authorization", "Bearer s3cret"),
            ("authorization", "bearer s3cret"),
            ("x-api-key", "s3cret"),
            ("api-key", "s3cret"),
        ] {
            assert!(check(Some(&token), &headers(name, value)).is_ok(), "{name}: {value}");
        }
        for (name, value) in
            [("authorization", "Bearer wrong"), ("authorization", "Basic s3cret"), ("x-api-key", "")]
        {
            assert_eq!(
                check(Some(&token), &headers(name, value)).unwrap_err().code,
                ErrorCode::InvalidApiKey
            );
        }
        assert!(check(None, &HeaderMap::new()).is_ok());
    }

    #[test]
    fn only_loopback_goes_without_a_token() {
        assert!(check_bind("127.0.0.1".parse().unwrap(), None).is_ok());
        assert!(check_bind("::1".parse().unwrap(), None).is_ok());
        assert!(check_bind("0.0.0.0".parse().unwrap(), None).is_err());
        assert!(check_bind("0.0.0.0".parse().unwrap(), Some(&Token::from_setting("t").unwrap())).is_ok());
    }

    #[test]
    fn a_token_is_never_printed() {
        assert!(!format!("{:?}", Token::from_setting("s3cret").unwrap()).contains("s3cret"));
    }
}
