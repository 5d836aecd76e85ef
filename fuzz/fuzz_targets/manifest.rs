//! What a hostile client sends as `torpor.toml`: refused with a line that exists, or taken with every value in its range.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_daemon::manifest::{Entry, Manifest, TaskName, format_millis, parse_millis};

fuzz_target!(|data: &[u8]| {
    match Manifest::parse(data) {
        Err(error) => {
            let lines = 1 + data.iter().filter(|byte| **byte == b'\n').count();
            assert!((1..=lines).contains(&error.line), "line {} of {lines}: {}", error.line, error.message);
            assert!(!error.message.is_empty());
        }
        Ok(manifest) => {
            let policy = manifest.policy;
            assert!((64..=2048).contains(&policy.memory_mib));
            assert!((100..=86_400_000).contains(&policy.timeout_ms));
            assert!(policy.retries <= 10);
            assert!((4 << 10..=64 << 20).contains(&policy.log_cap));
            assert_eq!(parse_millis(&format_millis(policy.timeout_ms)), Some(policy.timeout_ms));
            assert!(TaskName::try_from(manifest.name.to_string()).is_ok());
            // As the database keeps it, and reads it back.
            let entry = Entry::parse(manifest.entry.runtime(), &manifest.entry.to_string());
            assert_eq!(entry.as_ref(), Ok(&manifest.entry));
            assert!(manifest.entry.file().split('/').all(|part| !matches!(part, "" | "." | "..")));
        }
    }
});
