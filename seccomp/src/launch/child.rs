//! What a new process does between its birth and its program. It is a copy of a process with many threads, of which only this one is here: so nothing but
//! system calls, on what was made ready before; no allocation, no lock, nothing of the C library that keeps count of threads.

use std::ffi::{CString, c_char, c_int, c_ulong};
use std::io;
use std::os::fd::RawFd;
use std::ptr;

/// Ids that a process takes on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ids {
    /// Those of the process that started it.
    Kept,
    /// Root in its own user namespace, whatever it is outside. `alone`: it may leave its supplementary groups.
    Mapped { alone: bool },
    /// These, with the capabilities that locking itself in takes.
    Outer(u32),
}

/// What the child needs, made by its parent.
pub(super) struct Child {
    /// The sockets' end that says when to go on, and takes the error.
    pub(super) sync: RawFd,
    /// The parent's end of it, which a copy of the parent has too: closed, so that a parent that dies is seen.
    pub(super) parents: RawFd,
    /// For descriptors 0 and 1.
    pub(super) null: RawFd,
    /// For descriptor 2.
    pub(super) stderr: RawFd,
    /// For descriptor 3.
    pub(super) control: RawFd,
    /// An open executable; none: only a look at whether this works.
    pub(super) program: Option<RawFd>,
    pub(super) arguments: Vec<CString>,
    pub(super) ids: Ids,
}

/// Steps that can fail, in the order of [`STEPS`].
#[derive(Clone, Copy)]
#[repr(u8)]
enum Step {
    Wait,
    Groups,
    GroupId,
    UserId,
    Capabilities,
    Descriptors,
    Program,
    Mounts,
}

/// Names of the steps.
pub(super) const STEPS: [&str; 8] = [
    "waiting for its parent",
    "leaving supplementary groups",
    "setting its group id",
    "setting its user id",
    "keeping capabilities",
    "its descriptors",
    "executing its program (which everyone must be allowed to read and execute)",
    "a mount in its own namespace",
];

/// Bytes of a report: the step and the error's number.
pub(super) const REPORT: usize = 5;

/// `struct __user_cap_header_struct` and twice `__user_cap_data_struct` of linux/capability.h.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}
#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
const CAPS_V3: u32 = 0x2008_0522;
const CAP_SETPCAP: u32 = 8;
const CAP_SYS_ADMIN: u32 = 21;

impl Child {
    /// Argument pointers for the program, ended by a null; they point into `arguments`.
    pub(super) fn pointers(&self) -> Vec<*const c_char> {
        self.arguments.iter().map(|argument| argument.as_ptr()).chain([ptr::null()]).collect()
    }

    /// Becomes the program, or reports why not and ends.
    ///
    /// # Safety
    /// Only in a process that is a fresh copy of the caller's, on its only thread; `pointers` are those of this child.
    pub(super) unsafe fn run(&self, pointers: &[*const c_char]) -> ! {
        // SAFETY: the caller's promise.
        let failed = unsafe { self.become_it(pointers) };
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or_default();
        let mut report = [failed as u8, 0, 0, 0, 0];
        report[1..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: writes from memory of the stated size; then the process ends, without anything that runs at an ordinary end.
        #[expect(clippy::multiple_unsafe_ops_per_block, reason = "the last words and the end belong together")]
        unsafe {
            libc::write(self.sync, report.as_ptr().cast(), REPORT);
            libc::_exit(127)
        }
    }

    /// Gives the step that failed, `errno` being why; or [`Step::Wait`] with an `errno` of 0 where all went well and there is no program.
    ///
    /// # Safety
    /// As for [`Self::run`].
    #[expect(clippy::multiple_unsafe_ops_per_block, reason = "a straight line of system calls in a process of its own")]
    unsafe fn become_it(&self, pointers: &[*const c_char]) -> Step {
        let mut go = 0u8;
        // SAFETY: system calls on numbers, on descriptors that this process has, and on memory that lives here; none of them takes a lock in this process.
        unsafe {
            // Another child may hold the other end of `sync`, so its end alone does not tell of a dead parent. A change of ids takes this back.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong, 0, 0, 0);
            libc::close(self.parents);
            libc::setsid();
            let_signals_in();
            if libc::read(self.sync, (&raw mut go).cast(), 1) != 1 {
                return Step::Wait;
            }
            if let Some(step) = self.take_ids() {
                return step;
            }
            let Some(program) = self.program else {
                let none = ptr::null::<c_char>();
                let alone = libc::MS_REC | libc::MS_PRIVATE;
                if libc::mount(none, c"/".as_ptr(), none, alone, ptr::null()) != 0 {
                    return Step::Mounts;
                }
                *libc::__errno_location() = 0;
                return Step::Wait;
            };
            for (from, to) in [(self.null, 0), (self.null, 1), (self.stderr, 2), (self.control, 3)] {
                if libc::dup2(from, to) < 0 {
                    return Step::Descriptors;
                }
            }
            // Where the kernel is too old for it, the program closes what is left.
            libc::syscall(libc::SYS_close_range, 4, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            let environment = [ptr::null::<c_char>()];
            libc::syscall(libc::SYS_execveat, program, c"".as_ptr(), pointers.as_ptr(), environment.as_ptr(), libc::AT_EMPTY_PATH);
        }
        Step::Program
    }

    /// By system calls alone: the C library's own functions would have all threads change their ids, and there is only this one.
    ///
    /// # Safety
    /// As for [`Self::run`].
    #[expect(clippy::multiple_unsafe_ops_per_block, reason = "a straight line of system calls in a process of its own")]
    unsafe fn take_ids(&self) -> Option<Step> {
        let (id, leave_groups) = match self.ids {
            Ids::Kept => return None,
            Ids::Mapped { alone } => (0, alone),
            Ids::Outer(id) => (id, true),
        };
        // SAFETY: system calls on numbers and on memory that lives here.
        unsafe {
            if leave_groups && libc::syscall(libc::SYS_setgroups, 0, ptr::null::<u32>()) != 0 {
                return Some(Step::Groups);
            }
            if libc::syscall(libc::SYS_setresgid, id, id, id) != 0 {
                return Some(Step::GroupId);
            }
            if matches!(self.ids, Ids::Outer(_)) && libc::prctl(libc::PR_SET_KEEPCAPS, 1 as c_ulong, 0, 0, 0) != 0 {
                return Some(Step::Capabilities);
            }
            if libc::syscall(libc::SYS_setresuid, id, id, id) != 0 {
                return Some(Step::UserId);
            }
            if matches!(self.ids, Ids::Outer(_)) && !keep_some() {
                return Some(Step::Capabilities);
            }
        }
        None
    }
}

/// Its parent had blocked all of them. Handlers of the parent's must not run here.
///
/// # Safety
/// As for [`Child::run`].
#[expect(clippy::multiple_unsafe_ops_per_block, reason = "a straight line of system calls in a process of its own")]
unsafe fn let_signals_in() {
    let (none, by_default) = (0_u64, [0_u64; 4]);
    // SAFETY: system calls on memory that lives here: a set of 64 signals, and the kernel's `struct sigaction`, four words, all zero for the default.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, by_default.as_ptr(), 0, size_of::<u64>());
        }
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0, size_of::<u64>());
    }
}

/// Keeps the two capabilities that locking in takes, over the execution of the program.
///
/// # Safety
/// As for [`Child::run`].
unsafe fn keep_some() -> bool {
    let bits = 1 << CAP_SETPCAP | 1 << CAP_SYS_ADMIN;
    let header = CapHeader { version: CAPS_V3, pid: 0 };
    let some = CapData { effective: bits, permitted: bits, inheritable: bits };
    let data = [some, CapData { effective: 0, permitted: 0, inheritable: 0 }];
    let raise = |cap: u32| {
        // SAFETY: takes numbers, touches no memory.
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as c_ulong, c_ulong::from(cap), 0, 0) == 0 }
    };
    // SAFETY: both structures are as the kernel's header says for this version, and live here.
    let kept = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) == 0 };
    kept && raise(CAP_SETPCAP) && raise(CAP_SYS_ADMIN)
}
