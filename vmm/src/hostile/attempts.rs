//! What a hostile monitor attempts.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use torpor_seccomp::Role;

/// One attempt.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    /// Says what came of it, where the process still can.
    pub(crate) make: fn() -> String,
    /// The role that it is for; none: both.
    pub(crate) only: Option<Role>,
}

fn outcome(result: i64) -> String {
    if result < 0 { format!("failed with {}", io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { "done".into() }
}

fn tried<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "done".into(),
        Err(error) => format!("failed with {}", error.raw_os_error().unwrap_or(0)),
    }
}

/// System calls by name, with arguments that touch no memory.
macro_rules! calls {
    ($only:expr; $($name:literal: $call:ident($($argument:expr),*)),* $(,)?) => {
        [$(Attempt {
            name: $name,
            make: || {
                // SAFETY: numbers and null pointers only: a call that were allowed would fail or do nothing to memory that is in use.
                outcome(unsafe { libc::syscall(libc::$call $(, $argument)*) })
            },
            only: $only,
        }),*]
    };
}

const NULL: usize = 0;
const READ_EXEC: i32 = libc::PROT_READ | libc::PROT_EXEC;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const KVM_CREATE_DEVICE: u32 = 0xc00c_aee0;
const KVM_RUN: u32 = 0xae80;

/// Must end the process, in both roles.
const BOTH: [Attempt; 84] = calls![None;
    "openat": SYS_openat(libc::AT_FDCWD, c"/etc/passwd".as_ptr(), 0), "open": SYS_open(c"/dev/kvm".as_ptr(), libc::O_RDWR),
    "openat2": SYS_openat2(-1, NULL, NULL, 0), "creat": SYS_creat(c"/x".as_ptr(), 0o600), "open_by_handle_at": SYS_open_by_handle_at(-1, NULL, 0),
    "readlink": SYS_readlink(c"/proc/self/exe".as_ptr(), NULL, 0), "getdents64": SYS_getdents64(0, NULL, 0),
    "unlink": SYS_unlink(c"/x".as_ptr()), "rename": SYS_rename(c"/x".as_ptr(), c"/y".as_ptr()), "mkdir": SYS_mkdir(c"/x".as_ptr(), 0),
    "symlink": SYS_symlink(c"/x".as_ptr(), c"/y".as_ptr()), "mknod": SYS_mknod(c"/x".as_ptr(), libc::S_IFCHR, 0), "chmod": SYS_chmod(c"/".as_ptr(), 0),
    "chown": SYS_chown(c"/".as_ptr(), 0, 0), "chdir": SYS_chdir(c"/".as_ptr()), "chroot": SYS_chroot(c"/".as_ptr()),
    "socket inet": SYS_socket(libc::AF_INET, libc::SOCK_STREAM, 0), "socket unix": SYS_socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
    "socketpair": SYS_socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, NULL), "connect": SYS_connect(3, NULL, 0), "bind": SYS_bind(3, NULL, 0),
    "listen": SYS_listen(3, 1), "accept4": SYS_accept4(3, NULL, NULL, 0), "sendmsg": SYS_sendmsg(3, NULL, 0),
    "setsockopt": SYS_setsockopt(3, 1, 1, NULL, 0), "sendto another": SYS_sendto(1, NULL, 0, libc::MSG_NOSIGNAL, NULL, 0),
    "execve": SYS_execve(c"/bin/sh".as_ptr(), NULL, NULL), "execveat": SYS_execveat(1, c"".as_ptr(), NULL, NULL, libc::AT_EMPTY_PATH),
    "fork": SYS_fork(), "vfork": SYS_vfork(), "clone": SYS_clone(libc::SIGCHLD, 0, 0, 0, 0), "clone a thread": SYS_clone(libc::CLONE_THREAD, 0, 0, 0, 0),
    "clone3": SYS_clone3(NULL, 0), "ptrace": SYS_ptrace(libc::PTRACE_TRACEME, 0, 0, 0), "kill": SYS_kill(1, 0), "tkill": SYS_tkill(1, 0),
    "tgkill": SYS_tgkill(1, 1, 0), "rt_sigqueueinfo": SYS_rt_sigqueueinfo(1, 0, NULL), "pidfd_open": SYS_pidfd_open(1, 0),
    "pidfd_getfd": SYS_pidfd_getfd(0, 0, 0), "pidfd_send_signal": SYS_pidfd_send_signal(0, 0, NULL, 0), "kcmp": SYS_kcmp(1, 1, 0, 0, 0),
    "process_vm_readv": SYS_process_vm_readv(1, NULL, 0, NULL, 0, 0), "process_vm_writev": SYS_process_vm_writev(1, NULL, 0, NULL, 0, 0),
    "mount": SYS_mount(NULL, c"/".as_ptr(), NULL, libc::MS_PRIVATE, NULL), "umount2": SYS_umount2(c"/".as_ptr(), libc::MNT_DETACH),
    "pivot_root": SYS_pivot_root(c"/".as_ptr(), c"/".as_ptr()), "open_tree": SYS_open_tree(-1, NULL, 0), "move_mount": SYS_move_mount(-1, NULL, -1, NULL, 0),
    "fsopen": SYS_fsopen(NULL, 0), "unshare": SYS_unshare(libc::CLONE_NEWUSER), "setns": SYS_setns(0, 0), "setuid": SYS_setuid(0),
    "setresgid": SYS_setresgid(0, 0, 0), "setgroups": SYS_setgroups(0, NULL), "capset": SYS_capset(NULL, NULL), "prctl": SYS_prctl(libc::PR_SET_DUMPABLE, 1),
    "seccomp": SYS_seccomp(1, 0, NULL), "landlock": SYS_landlock_create_ruleset(NULL, 0, 1), "bpf": SYS_bpf(0, NULL, 0),
    "perf_event_open": SYS_perf_event_open(NULL, 0, -1, -1, 0), "io_uring_setup": SYS_io_uring_setup(1, NULL), "io_setup": SYS_io_setup(1, NULL),
    "userfaultfd": SYS_userfaultfd(0), "memfd_create": SYS_memfd_create(c"x".as_ptr(), 0), "memfd_secret": SYS_memfd_secret(0),
    "shmget": SYS_shmget(0, 4096, libc::IPC_CREAT), "msgget": SYS_msgget(0, libc::IPC_CREAT), "semget": SYS_semget(0, 1, libc::IPC_CREAT),
    "mq_open": SYS_mq_open(NULL, 0, 0, NULL), "keyctl": SYS_keyctl(0, 0, 0, 0, 0), "add_key": SYS_add_key(NULL, NULL, NULL, 0, 0),
    "init_module": SYS_init_module(NULL, 0, NULL), "kexec_load": SYS_kexec_load(0, 0, NULL, 0), "reboot": SYS_reboot(0, 0, 0, NULL),
    "sethostname": SYS_sethostname(NULL, 0), "clock_settime": SYS_clock_settime(0, NULL), "prlimit64": SYS_prlimit64(0, 7, NULL, NULL),
    "sched_setaffinity": SYS_sched_setaffinity(0, 0, NULL), "personality": SYS_personality(0),
    "mmap to execute": SYS_mmap(0, 4096, READ_EXEC, ANONYMOUS, -1, 0), "mprotect": SYS_mprotect(0, 4096, READ_EXEC),
    "ioctl of a terminal": SYS_ioctl(0, libc::TIOCSTI, NULL), "ioctl of KVM": SYS_ioctl(0, KVM_CREATE_DEVICE, NULL)
];
const EVENT_LOOP: [Attempt; 7] = calls![Some(Role::EventLoop);
    "KVM_RUN": SYS_ioctl(0, KVM_RUN, 0), "pread64": SYS_pread64(0, NULL, 0, 0), "pwrite64": SYS_pwrite64(0, NULL, 0, 0), "ftruncate": SYS_ftruncate(0, 0),
    "madvise": SYS_madvise(0, 0, libc::MADV_DONTNEED), "write elsewhere": SYS_write(1, NULL, 0), "recvmsg that waits": SYS_recvmsg(3, NULL, 0)
];
const VCPU: [Attempt; 4] = calls![Some(Role::Vcpu);
    "recvmsg": SYS_recvmsg(3, NULL, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC), "epoll_wait": SYS_epoll_wait(0, NULL, 0, 0),
    "madvise to merge": SYS_madvise(0, 0, libc::MADV_MERGEABLE), "exit_group": SYS_exit_group(7)
];

/// Must end the process.
pub(crate) fn denied() -> Vec<Attempt> {
    BOTH.into_iter().chain(EVENT_LOOP).chain(VCPU).collect()
}

/// What is allowed for paths that no ordinary life takes: each by the text of its rule.
pub(crate) fn rare() -> Vec<Attempt> {
    COMMON.into_iter().chain(RARE_EVENT_LOOP).chain(RARE_VCPU).collect()
}

const COMMON: [Attempt; 5] = [
    Attempt { name: "restart_syscall", make: || raw(libc::SYS_restart_syscall), only: None },
    Attempt { name: "sched_yield", make: || raw(libc::SYS_sched_yield), only: None },
    Attempt { name: "gettid", make: || raw(libc::SYS_gettid), only: None },
    Attempt { name: "clock_gettime", make: clock, only: None },
    Attempt { name: "a panic", make: || panic!("as meant"), only: None },
];
const KVM_SET_TSC_KHZ: u32 = 0xaea2;
const WAIT_BITSET_PRIVATE: i32 = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
const RARE_VCPU: [Attempt; 2] = calls![Some(Role::Vcpu);
    "ioctl arg1 == KVM_SET_TSC_KHZ": SYS_ioctl(0, KVM_SET_TSC_KHZ, 0), "mremap": SYS_mremap(0, 0, 0, 0)
];
const RARE_EVENT_LOOP: [Attempt; 4] = calls![Some(Role::EventLoop);
    "poll": SYS_poll(NULL, 0, 0), "futex arg1 == WAIT_BITSET_PRIVATE": SYS_futex(NULL, WAIT_BITSET_PRIVATE, 0, NULL, NULL, 1), "brk": SYS_brk(0), "write arg0 == 2": SYS_write(2, NULL, 0)
];

fn raw(call: i64) -> String {
    // SAFETY: a call without arguments that touches no memory.
    outcome(unsafe { libc::syscall(call) })
}

fn clock() -> String {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure that it is given.
    outcome(unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut now) })
}

const PORT: u16 = 47_113;
const ABSTRACT: &str = "torpor-vmm-hostile";
const KEY: i32 = 0x7043_4f52;

/// Has what the attempts look for on this host while they are made.
pub(crate) fn with_neighbours(attempts: impl FnOnce()) {
    let tcp = TcpListener::bind(("127.0.0.1", PORT)).expect("a port");
    let unix = UnixListener::bind_addr(&UnixAddr::from_abstract_name(ABSTRACT).expect("a name")).expect("an abstract socket");
    // SAFETY: makes a segment and maps nothing.
    let segment = unsafe { libc::shmget(KEY, 4096, libc::IPC_CREAT | 0o666) };
    assert!(segment >= 0 && TcpStream::connect(("127.0.0.1", PORT)).is_ok(), "the neighbours are there");
    attempts();
    // SAFETY: removes the segment made above.
    unsafe { libc::shmctl(segment, libc::IPC_RMID, std::ptr::null_mut()) };
    drop((tcp, unix));
}

/// What has to fail though no filter is there.
pub(crate) const LAYERS: &[Attempt] = &[
    Attempt { name: "open a host's file", make: || tried(std::fs::File::open("/etc/passwd")), only: None },
    Attempt { name: "open /dev/kvm anew", make: || tried(std::fs::File::options().read(true).write(true).open("/dev/kvm")), only: None },
    Attempt { name: "list the root", make: || tried(std::fs::read_dir("/")), only: None },
    Attempt { name: "make a file", make: || tried(std::fs::File::create("/x")), only: None },
    Attempt { name: "make a device", make: device, only: None },
    Attempt { name: "read /proc of another", make: || tried(std::fs::read("/proc/1/environ")), only: None },
    Attempt { name: "mount proc", make: mount_proc, only: None },
    Attempt { name: "make the root writable", make: writable_root, only: None },
    Attempt {
        name: "unshare a user namespace",
        make: || tried(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(io::Error::from)),
        only: None,
    },
    Attempt {
        name: "unshare mounts",
        make: || tried(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(io::Error::from)),
        only: None,
    },
    Attempt { name: "chroot", make: || tried(nix::unistd::chroot("/").map_err(io::Error::from)), only: None },
    Attempt { name: "execute a shell", make: || tried(std::process::Command::new("/bin/sh").status()), only: None },
    Attempt { name: "fork without end", make: forks, only: None },
    Attempt { name: "signal another", make: signals, only: None },
    Attempt { name: "trace another", make: trace, only: None },
    Attempt {
        name: "connect by TCP",
        make: || tried(TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], PORT)), std::time::Duration::from_secs(2))),
        only: None,
    },
    Attempt { name: "listen on TCP", make: || tried(TcpListener::bind(("127.0.0.1", 0))), only: None },
    Attempt { name: "connect to an abstract socket", make: connect_abstract, only: None },
    Attempt { name: "connect to a socket's file", make: || tried(UnixStream::connect("/run/torpor/torpord.sock")), only: None },
    Attempt { name: "a raw socket", make: raw_socket, only: None },
    Attempt { name: "another's shared memory", make: shared_memory, only: None },
    Attempt { name: "become another user", make: other_user, only: None },
    Attempt { name: "get capabilities", make: capabilities, only: None },
    Attempt { name: "set the host's name", make: || tried(nix::unistd::sethostname("x").map_err(io::Error::from)), only: None },
    Attempt { name: "raise a limit", make: limit, only: None },
    Attempt { name: "more descriptors than four", make: descriptors, only: None },
    Attempt { name: "load a program into the kernel", make: bpf, only: None },
    Attempt { name: "reboot", make: reboot, only: None },
];

fn mount_proc() -> String {
    let mounted = nix::mount::mount(Some("proc"), "/", Some("proc"), nix::mount::MsFlags::empty(), None::<&str>);
    tried(mounted.map_err(io::Error::from))
}

fn writable_root() -> String {
    let flags = nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_BIND;
    tried(nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(io::Error::from))
}

fn device() -> String {
    // SAFETY: the path is a C string that lives.
    outcome(i64::from(unsafe { libc::mknod(c"/kvm".as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(10, 232)) }))
}

/// As many children as it gets: few.
fn forks() -> String {
    for made in 0..64 {
        // SAFETY: the child waits for a signal and does nothing else; it ends with this process, the first of its namespace.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: touches no memory.
                unsafe { libc::pause() };
            },
            1.. => {}
            _ if made < 16 => return outcome(-1),
            _ => return format!("done {made} times"),
        }
    }
    "done".into()
}

/// Whoever it can reach: nobody but itself is there.
fn signals() -> String {
    // 1 is this process, and 2 its own second thread.
    let reached = (3..5000).find(|pid| {
        // SAFETY: signal 0 asks only.
        unsafe { libc::kill(*pid, 0) == 0 }
    });
    reached.map_or_else(|| "failed with 3".into(), |pid| format!("done to {pid}"))
}

fn trace() -> String {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: asks to attach to a process; no memory is touched.
    outcome(unsafe { libc::ptrace(libc::PTRACE_ATTACH, 1, none, none) })
}

fn connect_abstract() -> String {
    tried(UnixAddr::from_abstract_name(ABSTRACT).and_then(|name| UnixStream::connect_addr(&name)))
}

fn raw_socket() -> String {
    // SAFETY: takes numbers.
    outcome(i64::from(unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) }))
}

fn shared_memory() -> String {
    // SAFETY: looks for a segment and maps nothing.
    outcome(i64::from(unsafe { libc::shmget(KEY, 4096, 0) }))
}

fn other_user() -> String {
    // SAFETY: takes numbers, of this thread's ids only.
    outcome(unsafe { libc::syscall(libc::SYS_setresuid, 1000, 1000, 1000) })
}

fn capabilities() -> String {
    let header: [u32; 2] = [0x2008_0522, 0];
    let all = [u32::MAX; 6];
    // SAFETY: both are as large as the kernel's structures of this version.
    outcome(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), all.as_ptr()) })
}

fn limit() -> String {
    tried(nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 1 << 16, 1 << 16).map_err(io::Error::from))
}

fn descriptors() -> String {
    let open = (4..1024).find(|fd| {
        // SAFETY: asks only.
        unsafe { libc::fcntl(*fd, libc::F_GETFD) >= 0 }
    });
    open.map_or_else(|| "failed with 9".into(), |fd| format!("done: {fd} is open"))
}

fn bpf() -> String {
    let attributes = [0u64; 16];
    // SAFETY: the kernel reads attributes of this size.
    outcome(unsafe { libc::syscall(libc::SYS_bpf, 5, attributes.as_ptr(), size_of_val(&attributes)) })
}

fn reboot() -> String {
    // SAFETY: without the magic numbers that it takes to do it.
    match unsafe { libc::syscall(libc::SYS_reboot, 0, 0, 0, 0) } {
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::EPERM) => outcome(-1),
        _ => "done, or refused for its arguments only".into(),
    }
}
