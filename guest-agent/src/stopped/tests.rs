#![allow(clippy::unwrap_used)]
use super::*;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

fn stopped(script: &str) -> (std::process::Child, Stopped) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env(EXECUTION_VARIABLE, EXECUTION_ROOM).env("AFTER", "1").stdout(Stdio::piped());
    // SAFETY: `traceme` is one system call.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(std::io::Error::from)) };
    let child = command.spawn().unwrap();
    let stopped = Stopped::wait(Pid::from_raw(child.id().cast_signed())).unwrap().unwrap();
    (child, stopped)
}

#[test]
fn a_stopped_program_learns_its_execution() {
    let (child, mut program) = stopped("printf '%s %s' \"$TORPOR_EXECUTION\" \"$AFTER\"");
    program.prepare().unwrap();
    program.let_go("ex_01k0").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"ex_01k0 1");
}

#[test]
fn an_id_that_does_not_fit_is_cut() {
    let (child, mut program) = stopped("printf '%s' \"$TORPOR_EXECUTION\"");
    program.prepare().unwrap();
    program.let_go(&"x".repeat(300)).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, "x".repeat(EXECUTION_ROOM.len() - 1).into_bytes());
}

#[test]
fn maps_are_parsed() {
    let maps = "00400000-00401000 r--p 00000000 fe:00 12 /usr/bin/a b\n\
        00401000-00500000 rw-p 00001000 fe:00 12 /usr/bin/a b\n\
        00500000-00501000 ---p 00000000 00:00 0\n\
        7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0 [stack]\n\
        7ffe00100000-7ffe00104000 r--p 00000000 00:00 0 [vvar]\nnonsense\n";
    let found = mappings(maps);
    assert_eq!(found.len(), 3);
    assert_eq!(found[1], Mapping { start: 0x40_1000, end: 0x50_0000, writable: true, stack: false });
    assert!(found[2].stack);
    assert_eq!(stat_field("7 (a b) c) S 1 2 3", 4), Some(1));
    assert_eq!(stat_field("7 (x) S 1", 50), None);
}
