//! The system calls of each thread role. A line says what its calls are for.

use super::Role;

/// Both threads.
const COMMON: &[i64] = &[
    // KVM, interrupt lines.
    libc::SYS_ioctl,
    // The control socket, and waiting for the daemon to read it.
    libc::SYS_sendto,
    libc::SYS_write,
    libc::SYS_poll,
    // Bells between the threads, locks, thread parking.
    libc::SYS_futex,
    // Guest memory and the allocator.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_brk,
    libc::SYS_mremap,
    // Kernel, disks and snapshot, all by descriptor.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    // A parked machine is written over blocks that are there, and the disk begins before the last is written.
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_close,
    libc::SYS_fcntl,
    // Nobody writes over the file that a machine was resumed from.
    libc::SYS_flock,
    // Seeds.
    libc::SYS_getrandom,
    // Time where the vDSO has no answer.
    libc::SYS_clock_gettime,
    // Signals that are delivered, and the end of a thread or of the process.
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Beside [`COMMON`].
const EVENT_LOOP: &[i64] = &[
    // Commands with descriptors.
    libc::SYS_recvmsg,
    // Waiting for them.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    // Starting the vCPU thread and narrowing it.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_sched_getaffinity,
];

/// Calls that `role` may make.
pub(crate) fn allowed(role: Role) -> impl Iterator<Item = i64> {
    let own: &[i64] = match role {
        Role::EventLoop => EVENT_LOOP,
        Role::Vcpu => &[],
    };
    COMMON.iter().chain(own).copied()
}
