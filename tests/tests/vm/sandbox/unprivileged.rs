//! A torpord that is no root: VMs run under its own user, in namespaces that any user may have, and tasks run as ever.

use super::{doctor, locked_in, status};
use serde_json::json;
use std::fs;
use std::time::Duration;
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::tasks::TaskFolder;
use torpor_tests::until;

const USER: &str = "61999";
const GROUP: &str = "61998";

/// Gives a user what it needs of this host, in a mount namespace of the test's own: a `/dev/kvm` that a group may open, and everything that torpord is
/// started with at places that it can reach, wherever it is here. Arguments as a daemon is started: torpord --state-dir S --socket S --kernel K --images I ...
const SETTING: &str = "
set -e
torpord=$1 state=$3 socket=$5 kernel=$7 images=$9
shift 9
at=$(dirname \"$socket\")
mkdir -p \"$state\" \"$at/bin\" \"$at/images\"
touch \"$at/vmlinux\"
chown $USER:$USER \"$at\" \"$state\"
mount --make-rprivate /
mount --bind \"$(dirname \"$torpord\")\" \"$at/bin\"
mount --bind \"$kernel\" \"$at/vmlinux\"
for runtime in python exec; do
    touch \"$at/images/$runtime.erofs\"
    mount --bind \"$(readlink -f \"$images/$runtime.erofs\")\" \"$at/images/$runtime.erofs\"
done
mkdir \"$at/dev\"
mount -t tmpfs -o mode=755,dev none \"$at/dev\"
mknod \"$at/dev/kvm\" c $(stat -c '%Hr %Lr' /dev/kvm)
chown 0:$GROUP \"$at/dev/kvm\"
chmod 660 \"$at/dev/kvm\"
mount --bind \"$at/dev/kvm\" /dev/kvm
exec setpriv --reuid=$USER --regid=$USER --groups=$GROUP --inh-caps=-all --bounding-set=-all -- \"$at/bin/torpord\" \\
    --state-dir \"$state\" --socket \"$socket\" --kernel \"$at/vmlinux\" --images \"$at/images\" \"$@\"
";

pub(super) fn an_unprivileged_torpord_runs_a_task() {
    let script = SETTING.replace("$USER", USER).replace("$GROUP", GROUP);
    let wrapper = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    let daemon = Daemon::start(Options { wrapper, ..Options::default() });
    assert_eq!(status(daemon.pid(), "Uid")[0], USER);
    daemon.push(TaskFolder::copy("shell").path());
    daemon.template("shell");
    assert_eq!(daemon.result("shell", &json!("echo 7")), 7);
    let mut looked_at = 0;
    for pid in locked_in(&daemon, 2) {
        let (users, bounding) = (status(pid, "Uid"), status(pid, "CapBnd"));
        let (own, root) = (fs::read_link(format!("/proc/{pid}/ns/user")), fs::read_dir(format!("/proc/{pid}/root")));
        // The one that ran the task ends about now.
        let (Ok(own), Ok(root)) = (own, root.map(Iterator::count)) else {
            until("its end", Duration::from_secs(10), || (!daemon.monitors().contains(&pid)).then_some(()));
            continue;
        };
        looked_at += 1;
        assert_eq!(users, [USER; 4]);
        assert_eq!(bounding, ["0000000000000000"]);
        assert_ne!(own, fs::read_link(format!("/proc/{}/ns/user", daemon.pid())).unwrap());
        assert_eq!(root, 0);
    }
    assert!(looked_at > 0, "warm monitors stay");
    let host = daemon.get("/v1/host").expect(200);
    let layer = |name: &str| host["sandbox"].as_array().unwrap().iter().find(|layer| layer["layer"] == name).unwrap()["status"].clone();
    assert_eq!((layer("user ids"), layer("user namespaces"), layer("namespaces")), (json!("missing"), json!("on"), json!("on")));
    assert_eq!(doctor(&daemon, "user ids"), "note");
}
