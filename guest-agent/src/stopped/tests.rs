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

/// Runs a script to its end; what it wrote, how it ended, and whether it was still there then.
fn run(script: &str, execution: &str) -> (String, Ended, bool) {
    let (mut child, mut program) = stopped(script);
    program.prepare().unwrap();
    let program = program.let_go(execution).unwrap();
    let ended = loop {
        if let Some(ended) = program.changed(waitpid(program.pid, None).unwrap()) {
            break ended;
        }
    };
    // What is left of it goes when it is let go.
    let there = ptrace::cont(program.pid, None).is_ok();
    drop(child.wait());
    let mut wrote = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut wrote).unwrap();
    (wrote, ended, there)
}

#[test]
fn a_stopped_program_learns_its_execution() {
    assert_eq!(run("printf '%s %s' \"$TORPOR_EXECUTION\" \"$AFTER\"", "ex_01k0"), ("ex_01k0 1".into(), Ended::Exit(0), true));
}

#[test]
fn an_id_that_does_not_fit_is_cut() {
    let (wrote, _, _) = run("printf '%s' \"$TORPOR_EXECUTION\"", &"x".repeat(300));
    assert_eq!(wrote, "x".repeat(EXECUTION_ROOM.len() - 1));
}

#[test]
fn a_program_lives_as_if_nobody_watched() {
    assert_eq!(run("trap 'echo caught' USR1; kill -USR1 $$; (exit 3); exec sh -c 'echo new; exit 5'", "e").1, Ended::Exit(5));
    assert_eq!(run("kill -SEGV $$", "e").1, Ended::Signal(11));
    assert_eq!(run("kill -KILL $$", "e").1, Ended::Signal(9));
    assert_eq!(run("(sleep 0.2; kill -CONT $$) & kill -STOP $$; echo on; exit 4", "e").1, Ended::Exit(4));
    assert_eq!(run("i=0; while [ $i -lt 50 ]; do /bin/true; i=$((i+1)); done; echo $i", "e").0, "50\n");
}

#[test]
fn threads_outlive_the_main_thread() {
    let script = "exec python3 -c 'import ctypes, threading, time, os\n\
        threading.Thread(target=lambda: (time.sleep(0.3), os.write(1, b\"late\"), os._exit(6))).start()\n\
        ctypes.CDLL(None).pthread_exit(None)'";
    let (wrote, ended, _) = run(script, "e");
    assert_eq!((wrote.as_str(), ended), ("late", Ended::Exit(6)));
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
