use super::*;

fn line(call: i64, arguments: [u64; 6]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|argument| format!("{argument:#x}")).collect();
    format!("{call} {} 0x7ffd0 0x7f00\n", arguments.join(" "))
}

#[test]
fn calls_without_a_limit_wait_for_ever() {
    for (call, arguments) in [
        (libc::SYS_read, [3, 1, 1, 1, 1, 1]),
        (libc::SYS_wait4, [1; 6]),
        (libc::SYS_recvfrom, [1; 6]),
        (libc::SYS_pause, [0; 6]),
        (libc::SYS_poll, [1, 1, 0xffff_ffff, 5, 5, 5]),
        (libc::SYS_poll, [1, 1, u64::MAX, 5, 5, 5]),
        (libc::SYS_ppoll, [1, 1, 0, 8, 8, 8]),
        (libc::SYS_epoll_wait, [4, 1, 8, 0xffff_ffff, 0, 0]),
        (libc::SYS_select, [4, 1, 1, 1, 0, 9]),
        (libc::SYS_futex, [1, 0x189, 0, 0, 0, 0xffff_ffff]),
    ] {
        assert!(waits_for_ever(&line(call, arguments)), "{call} {arguments:?}");
    }
}

#[test]
fn calls_with_a_limit_do_not() {
    for (call, arguments) in [
        (libc::SYS_nanosleep, [1; 6]),
        (libc::SYS_clock_nanosleep, [0; 6]),
        (libc::SYS_restart_syscall, [0; 6]),
        (libc::SYS_poll, [1, 1, 0, 0, 0, 0]),
        (libc::SYS_poll, [1, 1, 0xffff_ffff_0000_03e8, 0, 0, 0]),
        (libc::SYS_ppoll, [1, 1, 0x7ffd, 8, 0, 0]),
        (libc::SYS_epoll_pwait, [4, 1, 8, 1000, 0, 0]),
        (libc::SYS_pselect6, [4, 0, 0, 0, 0x7ffd, 0]),
        (libc::SYS_futex, [1, 0x189, 0, 0x7ffd, 0, 0xffff_ffff]),
        (libc::SYS_rt_sigtimedwait, [1, 0, 1, 8, 0, 0]),
    ] {
        assert!(!waits_for_ever(&line(call, arguments)), "{call} {arguments:?}");
    }
}

#[test]
fn what_is_no_call_does_not() {
    for text in ["running\n", "-1 0x7ffd 0x7f00\n", "", "0", "0 0x1 0x2 zz 0x0 0x0 0x0 0x1 0x1", "read"] {
        assert!(!waits_for_ever(text), "{text:?}");
    }
}

#[test]
fn stat_and_loadavg_are_read() {
    assert_eq!(state("7 (a) R (b) S 0 0"), Some(b'S'));
    assert_eq!(state("7 (a"), None);
    assert_eq!(running("0.00 0.01 0.05 1/80 1234\n"), Some(1));
    assert_eq!(running("0.00"), None);
}

/// A process that waits for a time to pass, as long as this lives.
pub(crate) struct Sleeper(std::process::Child);

impl Sleeper {
    pub(crate) fn start() -> Result<Self, std::io::Error> {
        std::process::Command::new("sleep").arg("600").spawn().map(Self)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_machine_in_which_a_time_is_waited_for_is_not_idle() -> Result<(), std::io::Error> {
    let _sleeper = Sleeper::start()?;
    assert!(!Idle::default().look());
    Ok(())
}

#[test]
fn threads_are_seen_as_they_are() -> Result<(), std::io::Error> {
    let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn()?;
    let pid = child.id();
    let start = std::time::Instant::now();
    let mut seen = false;
    while !seen && start.elapsed() < std::time::Duration::from_secs(20) {
        // `syscall` may be kept from other users' eyes, which is an error here, not a sleep.
        seen = asleep(pid, pid).unwrap_or(true);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let timer = has_timer(pid)?;
    child.kill()?;
    child.wait()?;
    assert!(seen && !timer);
    assert!(asleep(pid, pid)?);
    Ok(())
}
