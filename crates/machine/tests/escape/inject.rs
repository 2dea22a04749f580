//! System calls made in another process, by a thread of its own: what code that has taken
//! the process over could do. Needs root.

use std::io::{IoSlice, IoSliceMut};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// An argument of a system call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument<'a> {
    Number(u64),
    /// Bytes that are put into the process, whose address the call gets.
    Bytes(&'a [u8]),
    /// The address of some room to write to.
    Room,
}

/// A system call: its number and first arguments; the others are 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a>(pub(crate) i64, pub(crate) &'a [Argument<'a>]);

/// Has the thread `tid` make `call` and go on as if nothing had been; what the kernel said.
/// Blocks. The call must be one that the thread survives.
pub(crate) fn call(tid: u32, call: Call<'_>) -> i64 {
    let thread = stop(tid);
    let before = ptrace::getregs(thread).unwrap();
    prepare(thread, call);
    ptrace::step(thread, None).unwrap();
    let stopped = waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    assert_eq!(
        stopped,
        WaitStatus::Stopped(thread, Signal::SIGTRAP),
        "{call:?}"
    );
    let result = ptrace::getregs(thread).unwrap().rax.cast_signed();
    ptrace::setregs(thread, before).unwrap();
    ptrace::detach(thread, None).unwrap();
    result
}

/// Has the thread `tid` make `call` as the last thing that it does for us. Blocks.
pub(crate) fn last_call(tid: u32, call: Call<'_>) {
    let thread = stop(tid);
    prepare(thread, call);
    ptrace::detach(thread, None).unwrap();
}

/// Stops the thread in a system call: before the registers' address is the instruction
/// that makes one.
fn stop(tid: u32) -> Pid {
    let thread = Pid::from_raw(i32::try_from(tid).unwrap());
    ptrace::seize(thread, Options::empty()).unwrap();
    loop {
        ptrace::interrupt(thread).unwrap();
        let stopped = waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(
            matches!(stopped, WaitStatus::PtraceEvent(..)),
            "{stopped:?}"
        );
        let at = ptrace::getregs(thread).unwrap().rip - 2;
        let mut instruction = [0; 2];
        let remote = [RemoteIoVec {
            base: usize::try_from(at).unwrap(),
            len: 2,
        }];
        process_vm_readv(thread, &mut [IoSliceMut::new(&mut instruction)], &remote).unwrap();
        if instruction == [0x0f, 0x05] {
            return thread;
        }
        ptrace::cont(thread, None).unwrap();
        std::thread::yield_now();
    }
}

/// Sets the stopped thread's registers so that it makes `call` next.
fn prepare(thread: Pid, Call(number, arguments): Call<'_>) {
    let mut registers = ptrace::getregs(thread).unwrap();
    // Far below what the thread has on its stack.
    let mut room = (registers.rsp - 64 * 1024) & !0xfff;
    let mut values = [0; 6];
    for (value, argument) in values.iter_mut().zip(arguments) {
        *value = match *argument {
            Argument::Number(number) => number,
            Argument::Room => room,
            Argument::Bytes(bytes) => {
                let remote = [RemoteIoVec {
                    base: usize::try_from(room).unwrap(),
                    len: bytes.len(),
                }];
                let written = process_vm_writev(thread, &[IoSlice::new(bytes)], &remote);
                assert_eq!(written, Ok(bytes.len()));
                room
            }
        };
        room += 4096;
    }
    [
        registers.rdi,
        registers.rsi,
        registers.rdx,
        registers.r10,
        registers.r8,
        registers.r9,
    ] = values;
    registers.rax = number.cast_unsigned();
    // The interrupted call is not to be made again now.
    registers.orig_rax = u64::MAX;
    registers.rip -= 2;
    ptrace::setregs(thread, registers).unwrap();
}
