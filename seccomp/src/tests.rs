#![allow(clippy::unwrap_used)]
use super::*;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// Runs `body` in a child that is locked in as `role`, with what any host has, and says how it ended.
fn locked_in(role: Role, body: fn()) -> WaitStatus {
    // SAFETY: the child calls only the sandbox and `body`, which allocate at most through malloc's own locks; the test thread that forks
    // holds none, and the child ends by _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => waitpid(child, None).unwrap(),
        ForkResult::Child => {
            let closed = enter(Plan { landlock: host::landlock_version() > 0, ..Plan::default() }).and_then(|()| narrow(role));
            if closed.is_ok() {
                body();
            }
            let status = i64::from(closed.is_err());
            // SAFETY: ends the child's only thread, by the call that each role has for that.
            unsafe { libc::syscall(if role == Role::Vcpu { libc::SYS_exit } else { libc::SYS_exit_group }, status) };
            std::process::abort()
        }
    }
}

fn died(status: WaitStatus) -> bool {
    matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _))
}

#[test]
fn what_a_monitor_never_does_ends_it() {
    let denied: [(&str, fn()); 7] = [
        ("open", || drop(std::fs::File::open("/etc/passwd"))),
        ("socket", || drop(std::net::TcpListener::bind("127.0.0.1:0"))),
        ("connect", || drop(std::os::unix::net::UnixStream::connect("/run/x"))),
        ("kill", || {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), None);
        }),
        ("exec", || drop(std::process::Command::new("/bin/true").status())),
        ("a thread", || drop(std::thread::Builder::new().spawn(|| {}))),
        ("unshare", || {
            let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS);
        }),
    ];
    for (what, body) in denied {
        for role in Role::ALL {
            assert!(died(locked_in(role, body)), "{what} is allowed to {role:?}");
        }
    }
    for role in Role::ALL {
        assert!(matches!(locked_in(role, || {}), WaitStatus::Exited(_, 0)), "{role:?}");
    }
}

#[test]
fn policies_are_read_as_they_are_written() {
    let rules = policy::parse("# x\nN = 0x10\nread\nioctl arg1 == N|1, arg2 & 4 == 0\nrare poll # why\n").unwrap();
    assert_eq!(rules.iter().map(|rule| rule.call.as_str()).collect::<Vec<_>>(), ["read", "ioctl", "poll"]);
    assert!(rules[1].allows(&[0, 0x11, 8, 0, 0, 0]) && !rules[1].allows(&[0, 0x11, 4, 0, 0, 0]) && !rules[1].allows(&[0; 6]));
    assert_eq!(rules[2].rare.as_deref(), Some("why"));
    for wrong in ["rare poll", "ioctl arg1", "ioctl arg9 == 1", "ioctl arg1 == NOBODY", "N = x"] {
        assert!(policy::parse(wrong).unwrap_err().contains("line 1"), "{wrong}");
    }
}

#[test]
fn plans_are_passed_as_words() {
    for plan in [Plan::default(), Plan { own_root: true, own_user: false, landlock: true }] {
        assert_eq!(plan.to_string().parse(), Ok(plan));
    }
    assert!("roof".parse::<Plan>().is_err());
}
