//! The head of a request that a guest sends to an HTTP service, and of a server's response: refused, or sent on in the one form of its path, with the
//! host's headers and none that could be taken for one of them.
//!
//! The first line of the input is a method and a target, each further one a header.
#![no_main]

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use libfuzzer_sys::fuzz_target;
use manifest::SecretName;
use manifest::aux::{Http, Part, Template};
use rules::Form;
// Where the two modules look for it.
use torpor_daemon::manifest;

#[path = "../../daemon/src/aux/http/headers.rs"]
mod headers;
#[path = "../../daemon/src/aux/http/rules.rs"]
mod rules;

/// Not in what the guest sends.
const SECRET: &str = "0f8a2c51-secret";
const PATTERNS: [&str; 3] = ["/", "/v1/charges", "/v1/items/*"];
const METHODS: [&str; 2] = ["GET", "POST"];

fn server() -> Http {
    let secret = SecretName::try_from("key".to_owned()).expect("a name");
    let template = Template(vec![Part::Text("Bearer ".into()), Part::Secret(secret)]);
    Http {
        tls: false,
        host: "pay.example".into(),
        port: 80,
        methods: METHODS.map(str::to_owned).into(),
        paths: PATTERNS.map(str::to_owned).into(),
        headers: vec![("x-api-key".into(), template)],
    }
}

fn read(data: &[u8]) -> Option<(Method, Uri, HeaderMap)> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let (method, target) = (Method::from_bytes(first.next()?).ok()?, Uri::try_from(first.next()?).ok()?);
    let mut headers = HeaderMap::new();
    for line in lines.take(128) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        headers.append(HeaderName::from_bytes(parts.next()?).ok()?, HeaderValue::from_bytes(parts.next()?).ok()?);
    }
    Some((method, target, headers))
}

/// What belongs to a connection is not handed on.
fn of_no_connection(headers: &HeaderMap) {
    for name in ["connection", "keep-alive", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"] {
        assert!(!headers.contains_key(name), "{name}");
    }
}

fn allowed(path: &str) -> bool {
    PATTERNS.iter().any(|pattern| pattern.strip_suffix('*').map_or(*pattern == path, |head| path.starts_with(head)))
}

fuzz_target!(|data: &[u8]| {
    let Some((method, target, headers)) = read(data) else { return };
    let mut response = Response::new(());
    *response.headers_mut() = headers.clone();
    of_no_connection(headers::inward(response).expect("its status is 200").headers());

    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, target, headers);
    let server = server();
    let Ok(Form(form)) = rules::check(&server, "pay", &request) else { return };
    let path = form.split('?').next().expect("one part at least").to_owned();
    assert!(allowed(&path) && METHODS.contains(&request.method().as_str()));
    assert_eq!(rules::canonical(&path).as_ref(), Ok(&path));
    assert!(!path.split('/').any(|part| matches!(part.split(';').next(), Some("." | ".."))), "{path}");
    let secret = |_: &SecretName| Ok(SECRET.to_owned().into());
    let Ok(sent) = headers::outward(request, Form(form.clone()), &server, secret) else { return };
    assert_eq!(sent.uri().path(), path);
    assert!(sent.uri().authority().is_none() && sent.uri().to_string() == form);
    of_no_connection(sent.headers());
    let values = |name: &str| sent.headers().get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    assert_eq!(values("host"), [b"pay.example"]);
    assert_eq!(values("x-api-key"), [format!("Bearer {SECRET}").as_bytes()]);
    assert!(!sent.headers().contains_key("content-length"));
    for name in sent.headers().keys().map(|name| name.as_str().replace('_', "-")) {
        assert!(!matches!(&name[..], "x-http-method-override" | "x-original-url" | "x-rewrite-url"), "{name}");
    }
    assert_eq!(sent.headers().keys().filter(|name| name.as_str().replace('_', "-") == "x-api-key").count(), 1);
});
