//! What a hostile client sends as `torpor.toml`: refused with a line that exists, or taken with every value in its range. The host's policy, which has
//! the same form, reads the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_daemon::manifest::host::HostPolicy;
use torpor_daemon::manifest::{AccountName, Declared, Entry, Manifest, Rights, TaskName, format_millis, parse_millis};

fuzz_target!(|data: &[u8]| {
    let _ = HostPolicy::parse(data);
    match Manifest::parse(data) {
        Err(error) => {
            let lines = 1 + data.iter().filter(|byte| **byte == b'\n').count();
            assert!((1..=lines).contains(&error.line), "line {} of {lines}: {}", error.line, error.message);
            assert!(!error.message.is_empty());
        }
        Ok(manifest) => {
            assert!(TaskName::try_from(manifest.name.to_string()).is_ok());
            for portion in &manifest.portions {
                let policy = HostPolicy::default().resolve(&AccountName::default(), &portion.declared).policy;
                assert!((64..=2048).contains(&policy.memory_mib));
                assert!((50..=1000).contains(&policy.vcpus_permille));
                assert!((100..=86_400_000).contains(&policy.timeout_ms));
                assert!(policy.retries <= 100);
                assert!((4 << 10..=64 << 20).contains(&policy.log_cap));
                assert_eq!(parse_millis(&format_millis(policy.timeout_ms)), Some(policy.timeout_ms));
                // As the database keeps it, and reads it back.
                let entry = Entry::parse(portion.entry.runtime(), &portion.entry.to_string());
                assert_eq!(entry.as_ref(), Ok(&portion.entry));
                assert!(portion.entry.file().split('/').all(|part| !matches!(part, "" | "." | "..")));
                let kept = serde_json::to_string(&portion.rights).expect("rights are plain values");
                assert_eq!(serde_json::from_str::<Rights>(&kept).expect("what was written is read"), portion.rights);
                let kept = serde_json::to_string(&portion.declared).expect("figures are plain values");
                assert_eq!(serde_json::from_str::<Declared>(&kept).expect("what was written is read"), portion.declared);
            }
        }
    }
});
