//! Headers of a request on its way out, and of a response on its way in. Pure.

use super::rules::Form;
use crate::manifest::SecretName;
use crate::manifest::aux::{Http, Part, Template};
use hyper::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::{Request, Response, StatusCode, Uri, Version};
use zeroize::Zeroizing;

/// Headers of a connection, not of what is asked for.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Some servers do what these say in place of the method and the path, which are what a policy is about.
const OVERRIDES: [&str; 6] =
    ["x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url", "x-original-uri"];

/// Takes off what belongs to a connection, and what its `Connection` names besides.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Servers that hand headers to programs as variables take these for the same.
fn same(left: &str, right: &str) -> bool {
    left.len() == right.len()
        && left
            .bytes()
            .zip(right.bytes())
            .all(|(left, right)| left == right || (left == b'_' && right == b'-') || (left == b'-' && right == b'_'))
}

/// Takes off all that a server might take for this one.
fn remove_alike(headers: &mut HeaderMap, name: &str) {
    let alike: Vec<HeaderName> = headers.keys().filter(|key| same(key.as_str(), name)).cloned().collect();
    for name in alike {
        headers.remove(name);
    }
}

fn value(template: &Template, secret: &impl Fn(&SecretName) -> Result<Zeroizing<String>, String>) -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::new());
    for part in &template.0 {
        match part {
            Part::Text(plain) => text.push_str(plain),
            Part::Secret(name) => text.push_str(&secret(name)?),
        }
    }
    Ok(text)
}

/// The server's name as a `Host` header.
fn host(server: &Http) -> String {
    match (server.tls, server.port) {
        (true, 443) | (false, 80) => server.host.clone(),
        (_, port) => format!("{}:{port}", server.host),
    }
}

/// A request as it is sent on. The error is for people and holds no secret.
pub(super) fn outward<B>(
    request: Request<B>,
    Form(path): Form,
    server: &Http,
    secret: impl Fn(&SecretName) -> Result<Zeroizing<String>, String>,
) -> Result<Request<B>, String> {
    let (mut parts, body) = request.into_parts();
    parts.uri = path.parse::<Uri>().map_err(|_| "its path can't be sent".to_owned())?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    strip(&mut parts.headers);
    OVERRIDES.iter().for_each(|name| remove_alike(&mut parts.headers, name));
    // Written anew from the body.
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(EXPECT);
    let host = HeaderValue::from_str(&host(server)).map_err(|_| "the server's name can't be sent".to_owned())?;
    parts.headers.insert(HOST, host);
    for (name, template) in &server.headers {
        remove_alike(&mut parts.headers, name);
        let wrong = || format!("header {name} can't be sent: a secret in it holds a character that a header can't");
        let mut added = HeaderValue::from_str(&value(template, &secret)?).map_err(|_| wrong())?;
        added.set_sensitive(true);
        parts.headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, added);
    }
    Ok(Request::from_parts(parts, body))
}

/// A response as the guest gets it; `None` where it changes the protocol.
pub(super) fn inward<B>(mut response: Response<B>) -> Option<Response<B>> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return None;
    }
    if response.headers().contains_key(TRANSFER_ENCODING) {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    strip(response.headers_mut());
    response.extensions_mut().clear();
    *response.version_mut() = Version::HTTP_11;
    Some(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn server() -> Http {
        let token = SecretName::try_from("pay-token".to_owned()).unwrap();
        let template = Template(vec![Part::Text("Bearer ".into()), Part::Secret(token)]);
        Http {
            tls: true,
            host: "api.example.com".into(),
            port: 8443,
            methods: Vec::new(),
            paths: Vec::new(),
            headers: vec![("x-api-key".into(), template)],
        }
    }

    fn send(request: Request<()>, secret: Result<&str, &str>) -> Result<Request<()>, String> {
        outward(request, Form("/v1?q".into()), &server(), |_| secret.map(|text| Zeroizing::new(text.to_owned())).map_err(str::to_owned))
    }

    #[test]
    fn only_what_belongs_to_the_request_is_sent() {
        let request = Request::builder()
            .uri("http://pay/v1?q")
            .header("host", "evil")
            .header("connection", "close, X-Private")
            .header("x-private", "1")
            .header("X-HTTP_Method-Override", "DELETE")
            .header("x-api-key", "mine")
            .header("x_api_key", "mine")
            .header("te", "trailers")
            .header("content-length", "7")
            .header("accept", "*/*")
            .body(())
            .unwrap();
        let sent = send(request, Ok("s3cret")).unwrap();
        assert_eq!(sent.uri(), "/v1?q");
        let mut names: Vec<_> = sent.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        names.sort_unstable();
        assert_eq!(names, [("accept", "*/*"), ("host", "api.example.com:8443"), ("x-api-key", "Bearer s3cret")]);
    }

    #[test]
    fn a_secret_is_never_part_of_an_error() {
        let request = || Request::builder().body(()).unwrap();
        let error = send(request(), Ok("s3cret\r\nX: y")).unwrap_err();
        assert!(error.contains("x-api-key") && !error.contains("s3cret"), "{error}");
        assert_eq!(send(request(), Err("there is none")).unwrap_err(), "there is none");
    }

    #[test]
    fn a_response_keeps_what_belongs_to_it() {
        let response = Response::builder().header("connection", "close").header("etag", "1").body(()).unwrap();
        let response = inward(response).unwrap();
        assert_eq!(response.headers().keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["etag"]);
        assert!(inward(Response::builder().status(101).body(()).unwrap()).is_none());
    }
}
