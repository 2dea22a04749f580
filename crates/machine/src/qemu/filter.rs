//! The system calls that QEMU may make: our own allow list, beside QEMU's deny list.
//!
//! | filter | in force | what it does not allow |
//! |---|---|---|
//! | [`start_up`] | from exec on | is answered with `ENOSYS`, so that QEMU does without |
//! | [`run_time`] | from the end of QEMU's set-up on, before the guest runs | ends the process |
//!
//! While QEMU sets itself up it opens files, loads libraries and makes devices, and reads
//! nothing that a guest or a tenant wrote. All of that comes after: device states, the
//! guest's requests, packets and disk blocks. So the list is that of the main loop and the
//! processors' threads alone. `preload/filter.rs` installs it for all threads at the call
//! by which QEMU gives up its last privileges; a filter that cannot be installed ends the
//! start.
//!
//! The list is what QEMU 7.2 was seen to call while it boots, restores, saves, loses its
//! disk server and finds it again, and powers off, with what its sources and glibc call on
//! the same ways for want of something. Where a library may ask for a file in passing
//! (locale, number of processors) it is told that it may not, and goes on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Compare,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::preload;
use crate::accelerator::Accelerator;

/// Calls that QEMU does without when the kernel seems not to have them: rings that run
/// system calls past every filter, and the form of `clone` whose flags no filter can read.
const ABSENT: [i64; 4] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_clone3,
];

/// Allowed at run time whatever the arguments.
const ALLOWED: [i64; 56] = [
    // Descriptors: console, device state, monitor, disk, TAP.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Waiting.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // Memory; `mmap` and `mprotect` are below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads and signals.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_sched_yield,
    // Where QEMU is built to use it.
    libc::SYS_membarrier,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // The guest's entropy.
    libc::SYS_getrandom,
];

/// Allowed at run time beside the others where guests run on KVM: a processor's thread
/// takes the signals that called it out of the guest.
const ALLOWED_WITH_KVM: [i64; 2] = [libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigpending];

/// Answered with `EACCES` at run time: what libraries ask for and do without.
const REFUSED: [i64; 17] = [
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_statx,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_unlink,
    libc::SYS_getcwd,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_clock_getres,
    libc::SYS_sched_getaffinity,
    libc::SYS_prctl,
];

/// The flags by which glibc starts a thread: it shares all that a thread shares.
const THREAD_FLAGS: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

/// What may be done to descriptors.
const DESCRIPTOR_COMMANDS: [i32; 6] = [
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
];

/// Signals that a thread may send to another: a call out of the guest, and `abort`.
const SIGNALS: [i32; 2] = [libc::SIGUSR1, libc::SIGABRT];

/// Requests to devices that are made at run time: whether a descriptor is a terminal,
/// whether it blocks, and what a guest's network driver has agreed on. None of them
/// attaches to another interface or makes a queue.
const DEVICE_REQUESTS: [u64; 11] = [
    0x5401,      // TCGETS
    0x802c_542a, // TCGETS2, of newer C libraries
    0x5421,      // FIONBIO
    0x541b,      // FIONREAD
    0x8004_54cf, // TUNGETFEATURES
    0x4004_54d0, // TUNSETOFFLOAD
    0x8004_54d7, // TUNGETVNETHDRSZ
    0x4004_54d8, // TUNSETVNETHDRSZ
    0x4004_54dc, // TUNSETVNETLE
    0x4004_54de, // TUNSETVNETBE
    0x8004_54e0, // TUNSETSTEERINGEBPF: newer QEMUs detach a program when they restore
];

/// The second byte of every request to KVM.
const KVM_REQUESTS: u64 = 0xae00;
/// Requests to KVM that make something, which is over once QEMU has set itself up.
const KVM_MAKES: [u64; 6] = [
    0xae01,      // KVM_CREATE_VM
    0xae41,      // KVM_CREATE_VCPU
    0xae60,      // KVM_CREATE_IRQCHIP
    0xae64,      // KVM_CREATE_PIT
    0x4040_ae77, // KVM_CREATE_PIT2
    0xc00c_aee0, // KVM_CREATE_DEVICE
];

/// The filter to be in force from exec on.
pub(crate) fn start_up() -> io::Result<BpfProgram> {
    compile(
        always(&ABSENT),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
    )
    .map_err(io::Error::other)
}

/// The filters to be in force from the end of QEMU's set-up on, in the order in which they
/// are to be installed: the last one forbids further ones.
pub(super) fn run_time(accelerator: &Accelerator) -> Result<[BpfProgram; 2], BackendError> {
    let mut paths = always(&REFUSED);
    // `stat` by path, as C libraries make it; of a descriptor it is allowed.
    let of_path = condition(3, Compare::Ne, libc::AT_EMPTY_PATH.unsigned_abs().into())?;
    paths.insert(libc::SYS_newfstatat, vec![SeccompRule::new(vec![of_path])?]);
    let refused = compile(
        paths,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EACCES.unsigned_abs()),
    )?;
    let mut allowed = always(&ALLOWED);
    allowed.extend(always(&REFUSED));
    // The other filter answers it.
    allowed.extend(always(&[libc::SYS_clone3]));
    allowed.extend(with_arguments(accelerator)?);
    if *accelerator == Accelerator::Kvm {
        allowed.extend(always(&ALLOWED_WITH_KVM));
    }
    let allowed = compile(allowed, SeccompAction::KillProcess, SeccompAction::Allow)?;
    Ok([refused, allowed])
}

/// [`run_time`]'s filters as the preloaded library reads them: of each its number of
/// instructions, 64 bits in native order, and the instructions.
pub(super) fn table(accelerator: &Accelerator) -> io::Result<(OwnedFd, usize)> {
    let mut bytes = Vec::new();
    for program in run_time(accelerator).map_err(io::Error::other)? {
        bytes.extend((program.len() as u64).to_ne_bytes());
        for instruction in program {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
        }
    }
    let table = preload::sealed("hearth-filters", &bytes)?;
    Ok((table, bytes.len()))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that are allowed with some arguments only.
fn with_arguments(accelerator: &Accelerator) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    // No new code: neither emulation, which made its buffer before, nor KVM needs any.
    let no_code = condition(
        2,
        Compare::MaskedEq(libc::PROT_EXEC.unsigned_abs().into()),
        0,
    )?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![no_code.clone()])?]);
    }
    rules.insert(
        libc::SYS_clone,
        vec![SeccompRule::new(vec![equal(
            0,
            THREAD_FLAGS.unsigned_abs(),
        )?])?],
    );
    // The disk's socket, when its server has come back. Descriptors of other families
    // never were there to be connected.
    rules.insert(
        libc::SYS_socket,
        vec![SeccompRule::new(vec![equal(
            0,
            libc::AF_UNIX.unsigned_abs(),
        )?])?],
    );
    // The other filter tells a descriptor's from a path's.
    rules.insert(libc::SYS_newfstatat, Vec::new());
    rules.insert(
        libc::SYS_fcntl,
        one_of(1, &DESCRIPTOR_COMMANDS.map(unsigned))?,
    );
    rules.insert(libc::SYS_tgkill, one_of(2, &SIGNALS.map(unsigned))?);
    let mut requests = one_of(1, &DEVICE_REQUESTS)?;
    if *accelerator == Accelerator::Kvm {
        let mut kvm = vec![condition(1, Compare::MaskedEq(0xff00), KVM_REQUESTS)?];
        for request in KVM_MAKES {
            kvm.push(condition(1, Compare::Ne, request)?);
        }
        requests.push(SeccompRule::new(kvm)?);
    }
    rules.insert(libc::SYS_ioctl, requests);
    Ok(rules)
}

fn always(calls: &[i64]) -> Rules {
    calls.iter().map(|&call| (call, Vec::new())).collect()
}

fn unsigned(number: i32) -> u64 {
    number.unsigned_abs().into()
}

fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    values
        .iter()
        .map(|&value| SeccompRule::new(vec![condition(argument, Compare::Eq, value)?]))
        .collect()
}

fn equal(argument: u8, value: u32) -> Result<SeccompCondition, BackendError> {
    condition(argument, Compare::Eq, value.into())
}

/// Compares the lower 32 bits: the kernel takes no more of any argument that is compared
/// here, whatever a caller has in the upper ones.
fn condition(
    argument: u8,
    comparison: Compare,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, Length::Dword, comparison, value)
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, matching, TargetArch::x86_64)?.try_into()
}

#[cfg(test)]
mod tests;
