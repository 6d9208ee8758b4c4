//! Who may ask. A page of another site must not use the studio through its visitor's browser: requests name this host (against DNS
//! rebinding), and what changes something comes from this page (against cross-site requests). On another address than the
//! loopback, a token is asked for.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, LOCATION, ORIGIN, REFERRER_POLICY, SET_COOKIE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::Failure;

/// The name of the cookie with the token.
const TOKEN: &str = "ddpm-token";

/// Nothing but what this server has.
const POLICY: &str =
    "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The rules.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    address: SocketAddr,
    token: Option<String>,
}

impl Guard {
    /// Rules for a server at an address.
    pub fn new(address: SocketAddr) -> std::io::Result<Self> {
        let token = if address.ip().is_loopback() { None } else { Some(random_token()?) };
        Ok(Self(Arc::new(Rules { address, token })))
    }

    /// Returns the address of the page.
    pub fn url(&self) -> String {
        let Rules { address, token } = &*self.0;
        match token {
            Some(token) => format!("http://{address}/?token={token}"),
            None => format!("http://{address}/"),
        }
    }

    /// Returns why a request is refused, if it is.
    fn refuses(&self, method: &Method, headers: &HeaderMap, query: Option<&str>) -> Option<Failure> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let Some(host) = text(HOST).filter(|host| self.is_own(host)) else {
            let message = "the request is for another host; open the address that the program printed";
            return Some(Failure::new(StatusCode::MISDIRECTED_REQUEST, message));
        };
        let is_cross_site = match text(ORIGIN) {
            Some(origin) => origin.strip_prefix("http://") != Some(host),
            // Browsers send an origin with what changes something; curl sends neither.
            None => !matches!(
                headers.get("sec-fetch-site").map(HeaderValue::as_bytes),
                None | Some(b"same-origin" | b"none")
            ),
        };
        let reads = [Method::GET, Method::HEAD].contains(method);
        if is_cross_site && !(reads && text(ORIGIN).is_none()) {
            return Some(Failure::new(StatusCode::FORBIDDEN, "the request comes from a page of another site"));
        }
        let token = self.0.token.as_deref()?;
        let given = query.and_then(token_of_query).or_else(|| text(AUTHORIZATION)?.strip_prefix("Bearer "));
        let is_known = given.or_else(|| token_of_cookie(text(COOKIE)?)).is_some_and(|given| equal(given, token));
        (!is_known).then(|| {
            let message = "the token is missing or wrong; open the address with the token that the program printed";
            Failure::new(StatusCode::UNAUTHORIZED, message)
        })
    }

    /// Returns whether a `Host` names this server: its address, or a name of the loopback.
    fn is_own(&self, host: &str) -> bool {
        let (address, port) = (self.0.address, self.0.address.port());
        let is_own = host == address.to_string();
        let loopback = ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| host == format!("{name}:{port}"));
        // Behind 0.0.0.0 any of the machine's addresses may be meant; the token protects them.
        is_own || loopback || (address.ip().is_unspecified() && is_address(host, port))
    }
}

/// Returns whether a `Host` is an address, not a name, with this port.
fn is_address(host: &str, port: u16) -> bool {
    host.parse::<SocketAddr>().is_ok_and(|address| address.port() == port)
}

fn random_token() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn token_of_query(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("token="))
}

fn token_of_cookie(cookies: &str) -> Option<&str> {
    cookies.split(';').find_map(|cookie| cookie.trim().strip_prefix(TOKEN)?.strip_prefix('='))
}

/// Compares without telling by the time how much is equal.
fn equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// Refuses requests, and adds the headers of all answers.
pub async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let query = request.uri().query().map(str::to_owned);
    let mut response = match guard.refuses(&method, &headers, query.as_deref()) {
        Some(failure) => failure.into_response(),
        // The page's address keeps no token, which would be in the history and in screenshots.
        None if request.uri().path() == "/" && query.as_deref().and_then(token_of_query).is_some() => {
            let cookie =
                format!("{TOKEN}={}; HttpOnly; SameSite=Strict; Path=/", guard.0.token.as_deref().unwrap_or_default());
            (StatusCode::SEE_OTHER, [(LOCATION, "/".to_owned()), (SET_COOKIE, cookie)]).into_response()
        }
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, method: Method, headers: &[(&'static str, &str)], query: Option<&str>) -> Option<u16> {
        let guard = Guard(Arc::new(Rules {
            address: address.parse().unwrap(),
            token: (!address.starts_with("127")).then(|| "secret".to_owned()),
        }));
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| drop(map.insert(*name, value.parse().unwrap())));
        guard.refuses(&method, &map, query).map(|failure| failure.status.as_u16())
    }

    #[test]
    fn requests_name_this_host() {
        let of = |host: &str| refused("127.0.0.1:7878", Method::GET, &[("host", host)], None);
        for own in ["127.0.0.1:7878", "localhost:7878", "[::1]:7878"] {
            assert_eq!(of(own), None, "{own}");
        }
        for other in
            ["127.0.0.1", "localhost:7879", "evil.example:7878", "localhost.evil.example:7878", "192.168.0.2:7878"]
        {
            assert_eq!(of(other), Some(421), "{other}");
        }
        assert_eq!(refused("127.0.0.1:7878", Method::GET, &[], None), Some(421));
    }

    #[test]
    fn what_changes_something_comes_from_this_page() {
        let host = ("host", "localhost:7878");
        let of = |method, header| refused("127.0.0.1:7878", method, &[host, header], None);
        assert_eq!(of(Method::POST, ("origin", "http://localhost:7878")), None);
        for origin in ["http://evil.example", "null", "https://localhost:7878", "http://localhost:80"] {
            assert_eq!(of(Method::POST, ("origin", origin)), Some(403), "{origin}");
            assert_eq!(of(Method::GET, ("origin", origin)), Some(403), "{origin}");
        }
        assert_eq!(of(Method::POST, ("sec-fetch-site", "cross-site")), Some(403));
        assert_eq!(of(Method::POST, ("sec-fetch-site", "same-origin")), None);
        // A link from elsewhere opens the page.
        assert_eq!(of(Method::GET, ("sec-fetch-site", "cross-site")), None);
        // curl
        assert_eq!(of(Method::POST, ("accept", "*/*")), None);
    }

    #[test]
    fn other_addresses_ask_for_a_token() {
        let host = ("host", "192.168.0.2:7878");
        let of = |header, query| refused("192.168.0.2:7878", Method::GET, &[host, header], query);
        assert_eq!(of(("accept", "*/*"), None), Some(401));
        assert_eq!(of(("accept", "*/*"), Some("token=secres")), Some(401));
        assert_eq!(of(("accept", "*/*"), Some("a=b&token=secret")), None);
        assert_eq!(of(("authorization", "Bearer secret"), None), None);
        assert_eq!(of(("cookie", "other=1; ddpm-token=secret"), None), None);
        assert_eq!(of(("cookie", "ddpm-token=secret2"), None), Some(401));
        assert_eq!(
            refused("0.0.0.0:7878", Method::GET, &[("host", "evil.example:7878")], Some("token=secret")),
            Some(421)
        );
        assert_eq!(refused("0.0.0.0:7878", Method::GET, &[host], Some("token=secret")), None);
    }

    #[test]
    fn tokens_differ() {
        let address = "0.0.0.0:1".parse().unwrap();
        let [a, b] = [Guard::new(address).unwrap().url(), Guard::new(address).unwrap().url()];
        assert!(a != b && a.len() == "http://0.0.0.0:1/?token=".len() + 32, "{a}");
        assert_eq!(Guard::new("127.0.0.1:1".parse().unwrap()).unwrap().url(), "http://127.0.0.1:1/");
    }
}
