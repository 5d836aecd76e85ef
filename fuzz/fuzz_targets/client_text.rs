//! What a client sends as one line: an idempotency key, a token, the URL of a webhook, a moment, an id. Refused, or taken, written and taken again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_daemon::accounts::token::TokenId;
use torpor_daemon::idempotency::Key;
use torpor_daemon::manifest::notify::Destination;
use torpor_daemon::state::id::ExecutionId;
use torpor_daemon::state::sketch::Sketch;
use torpor_daemon::state::time::Timestamp;

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = Key::parse(data) {
        assert!((1..=255).contains(&key.as_str().len()) && key.as_str().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }
    // What the database holds of durations.
    if let Ok(sketch) = serde_json::from_slice::<Sketch>(data) {
        let (low, high) = (sketch.percentile(50), sketch.percentile(95));
        assert!(low <= high && low.is_some() == (sketch.weight() > 0));
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if let Some(id) = TokenId::of(text) {
        assert_eq!(TokenId::parse(id.as_str()), Some(id));
    }
    if let Some(id) = ExecutionId::parse(text) {
        assert_eq!(id.as_str(), text);
    }
    if let Some(time) = Timestamp::parse(text) {
        assert_eq!(Timestamp::parse(&time.to_string()).map(Timestamp::millis), Some(time.millis()));
    }
    match Destination::parse(text) {
        Err(why) => assert!(!why.is_empty() && !why.contains('\n')),
        Ok(url) => {
            assert!(!url.host.is_empty() && url.path.starts_with('/') && url.to_string().is_ascii());
            assert_eq!(Destination::parse(&url.to_string()), Ok(url));
        }
    }
});
