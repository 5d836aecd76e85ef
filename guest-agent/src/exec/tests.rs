#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn an_entry_is_a_file_inside_the_folder() {
    assert_eq!(entry_path("run.sh").unwrap(), Path::new("/task/run.sh"));
    assert_eq!(entry_path("./bin/run").unwrap(), Path::new("/task/bin/run"));
    for bad in ["", "/bin/sh", "../x", "a/../../x", ".."] {
        assert!(entry_path(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_refusal_says_what_to_do() {
    let say = |errno: Errno, path: &str| refused("x", Path::new(path), &std::io::Error::from(errno));
    assert!(say(Errno::EACCES, "/nowhere").contains("chmod +x"));
    assert!(say(Errno::ENOENT, "/nowhere").contains("not in the task's folder"));
    assert!(say(Errno::ENOENT, "/proc/self/exe").contains("interpreter"));
    assert!(say(Errno::ENOEXEC, "/nowhere").contains("#!"));
}
