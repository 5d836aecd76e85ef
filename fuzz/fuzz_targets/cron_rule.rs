//! A cron expression and a time zone as a client sends them: refused with a reason, or a rule whose times lie where they are said to lie.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_daemon::cron::Missed;
use torpor_daemon::cron::plan::{MOST_MISSED, plan};
use torpor_daemon::cron::rule::Rule;
use torpor_daemon::state::time::Timestamp;

/// As few zones as reach all that zones do: summer time, half hours, and a day that was left out.
const ZONES: [&str; 5] = ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu"];

fuzz_target!(|data: &[u8]| {
    let Some((times, text)) = data.split_first_chunk::<16>() else { return };
    let moment = |at: usize| Timestamp(i64::from_le_bytes(times[at..at + 8].try_into().expect("eight bytes")));
    let (text, zone) = (String::from_utf8_lossy(text), ZONES[usize::from(times[0]) % ZONES.len()]);
    let _ = Rule::parse("@daily", &text);
    match Rule::parse(&text, zone) {
        Err(why) => assert!(!why.is_empty() && why.len() < 4096),
        Ok(rule) => {
            assert_eq!(Rule::parse(rule.text(), rule.zone()).expect("what was taken is taken again").text(), rule.text());
            let (from, now) = (moment(0), moment(8));
            assert!(rule.next(from).is_none_or(|next| next > from));
            assert!(rule.last(from).is_none_or(|last| last <= from));
            assert!(rule.before(from).is_none_or(|before| before < from));
            for missed in [Missed::Skip, Missed::Once, Missed::All] {
                let plan = plan(&rule, from, now, missed);
                assert!(plan.run.len() <= MOST_MISSED && plan.run.is_sorted());
                assert!(plan.run.iter().all(|time| *time > from && *time <= now));
            }
        }
    }
});
