//! What is given to arguments: held against what it may be, with an error that says so.

pub(super) fn execution(id: &str) -> Result<String, String> {
    if id.is_empty() { Err("an execution's id is wanted; `torpor ps -a` lists them".into()) } else { Ok(id.to_owned()) }
}

/// In quotes on its way, so that a key that has some itself stays as it is.
pub(super) fn key(key: &str) -> Result<String, String> {
    if (1..=255).contains(&key.len()) && key.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        Ok(format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\"")))
    } else {
        Err("a key is 1 to 255 printable ASCII characters".into())
    }
}

pub(super) fn token(token: &str) -> Result<String, String> {
    if token.is_empty() {
        Err("an event's token is wanted; `torpor ps` shows what executions wait for".into())
    } else {
        Ok(token.to_owned())
    }
}

pub(super) fn task(name: &str) -> Result<String, String> {
    if name.is_empty() { Err("a task's name is wanted; `torpor task ls` lists them".into()) } else { Ok(name.to_owned()) }
}

/// As the daemon takes it: seconds, or a moment.
pub(super) fn need_by(text: &str) -> Result<String, String> {
    if chrono::DateTime::parse_from_rfc3339(text).is_ok() {
        return Ok(text.to_owned());
    }
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let (number, unit) = units.into_iter().find_map(|(unit, of)| Some((text.strip_suffix(unit)?, of))).unwrap_or((text, 1.0));
    // Plain decimals: what else Rust reads as a number, such as 1e3, inf or -1, is more likely a mistake.
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = number.parse().ok().filter(|number: &f64| plain && number.is_finite()).map(|number| number * unit);
    let wrong = || {
        format!(
            "{text:?} is neither a number of seconds (30, 1.5), nor a number and a unit (500ms, 30s, 5m, 12h, 7d), nor a moment (2027-01-01T12:00:00Z)"
        )
    };
    seconds.map(|seconds| seconds.to_string()).ok_or_else(wrong)
}

/// In whole seconds, as the daemon takes it.
pub(super) fn within(text: &str) -> Result<u64, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("", 1)];
    let found = units.into_iter().find_map(|(unit, seconds)| text.strip_suffix(unit)?.parse::<u32>().ok().map(|n| u64::from(n) * seconds));
    found.ok_or_else(|| format!("{text:?} is no whole number and a unit (30s, 5m, 12h, 7d), or of seconds"))
}

pub(super) fn secret(name: &str) -> Result<String, String> {
    if name.is_empty() { Err("a secret's name is wanted; `torpor secret ls` lists them".into()) } else { Ok(name.to_owned()) }
}

pub(super) fn schedule(name: &str) -> Result<String, String> {
    if name.is_empty() { Err("a schedule's name is wanted; `torpor schedule ls` lists them".into()) } else { Ok(name.to_owned()) }
}

/// A task where its versions can't be told apart.
pub(super) fn task_name(name: &str) -> Result<String, String> {
    match name.split_once('@') {
        Some((name, _)) => Err(format!("a task's name without @ is wanted here, which stands for all its versions: {name:?}")),
        None => task(name),
    }
}

pub(super) fn every(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds)).ok_or_else(|| "a number of seconds from 0.1 to 3600".into())
}
