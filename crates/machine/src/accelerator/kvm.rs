//! A guest of a few hundred bytes, run through KVM.
//!
//! It starts in 64-bit mode with the first 2 MiB mapped to themselves. It runs the
//! privileged instructions that every kernel needs ([`PRIVILEGED`] when done), counts in
//! ring 0 ([`RING_0`] after each round), goes to ring 3 and counts there, entering ring 0
//! by `syscall` after each round ([`RING_3`]). Every report is a write to an I/O port, at
//! which KVM returns to us.
//!
//! ```text
//!   0x0500 GDT   0x0600 its and the IDT's description   0x0700 TSS
//!   0x1000 page tables (3 pages)   0x4000 code   0x8000 scratch   0xa000, 0xb000 stacks
//! ```

#![expect(
    unsafe_code,
    reason = "guest memory is shared with the kernel, guest code is assembly"
)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr;
use std::time::Instant;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use rustix::mm::{MapFlags, ProtFlags};

use super::fast_enough;

/// What KVM is driven through.
pub(crate) const DEVICE: &str = "/dev/kvm";
const MEMORY: usize = 2 << 20;
const GDT: usize = 0x500;
const TABLES: usize = 0x600;
const TSS: usize = 0x700;
const PAGES: usize = 0x1000;
const CODE: usize = 0x4000;
/// Rounds of a loop, of which the first only warms up.
const ROUNDS: usize = 4;
/// Instructions in a round: iterations times instructions of the loop's body.
const ROUND_INSTRUCTIONS: f64 = 50_000.0 * 4.0;
const PORT: u16 = 0x10;
const PRIVILEGED: u8 = 1;
const RING_0: u8 = 2;
const RING_3: u8 = 3;

/// Flat segments: kernel code and data, user data and code (in the order that `sysret`
/// wants), and the task state.
const DESCRIPTORS: [u64; 7] = [
    0,
    0x00af_9a00_0000_ffff,
    0x00cf_9200_0000_ffff,
    0x00cf_f200_0000_ffff,
    0x00af_fa00_0000_ffff,
    0x0000_8900_0700_0067,
    0,
];

std::arch::global_asm!(
    ".pushsection .rodata.hearth_probe, \"a\"",
    ".globl hearth_probe_start",
    "hearth_probe_start:",
    // What a kernel does while it starts.
    "lgdt [0x600]",
    "lidt [0x610]",
    "mov eax, 0x28",
    "ltr ax",
    "mov rax, cr0",
    "mov cr0, rax",
    "clts",
    "mov rax, cr4",
    "mov rbx, rax",
    "xor rax, 0x80",
    "mov cr4, rax",
    "mov cr4, rbx",
    "mov rax, cr3",
    "mov cr3, rax",
    "invlpg [0x8000]",
    "mov ecx, 0xc0000080", // EFER, with system calls on
    "rdmsr",
    "or eax, 1",
    "wrmsr",
    "mov ecx, 0xc0000101", // GS base
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "swapgs",
    "swapgs",
    "mov ecx, 0xc0000081", // STAR: kernel segments at 0x08, user segments at 0x10 + 8
    "xor eax, eax",
    "mov edx, 0x00100008",
    "wrmsr",
    "mov ecx, 0xc0000082", // LSTAR: where system calls enter
    "lea rax, [rip + 9f]",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0xc0000084", // flags that a system call clears
    "mov eax, 0x200",
    "wrmsr",
    "xor eax, eax",
    "cpuid",
    "rdtsc",
    "fninit",
    "fxsave [0x8000]",
    "fxrstor [0x8000]",
    "pushfq",
    "cli",
    "popfq",
    "mov al, 1",
    "out 0x10, al",
    // Counting in ring 0.
    "2:",
    "mov ecx, 50000",
    "3:",
    "add rax, rcx",
    "mov [0x8400], rax",
    "dec ecx",
    "jnz 3b",
    "mov al, 2",
    "out 0x10, al",
    "inc r8d",
    "cmp r8d, 4",
    "jne 2b",
    // To ring 3.
    "push 0x1b",
    "push 0xb000",
    "push 2",
    "push 0x23",
    "lea rax, [rip + 4f]",
    "push rax",
    "iretq",
    "4:",
    "mov ecx, 50000",
    "5:",
    "add rax, rcx",
    "mov [0x8400], rax",
    "dec ecx",
    "jnz 5b",
    "syscall",
    "jmp 4b",
    // System calls enter here.
    "9:",
    "mov al, 3",
    "out 0x10, al",
    "sysretq",
    ".globl hearth_probe_end",
    "hearth_probe_end:",
    ".popsection",
);

unsafe extern "C" {
    static hearth_probe_start: u8;
    static hearth_probe_end: u8;
}

/// Opens the device, for a VM process that may not do it itself.
pub(crate) fn open() -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open(DEVICE)?;
    Ok(device.into())
}

/// Runs the guest; an error is the reason why KVM is not worth using here.
pub(super) fn run() -> Result<(), String> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT => {
            "/dev/kvm is missing: no virtualisation in the processor or firmware, or the module \
             kvm_intel or kvm_amd is not loaded"
                .to_owned()
        }
        _ => format!("/dev/kvm cannot be opened: {error}"),
    })?;
    let fail =
        |what: &'static str| move |error: kvm_ioctls::Error| format!("KVM cannot {what}: {error}");
    let mut memory = Memory::new().map_err(|error| format!("no memory for a guest: {error}"))?;
    memory.fill();
    let vm = kvm.create_vm().map_err(fail("create a VM"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.0 as u64,
    };
    // SAFETY: the region is mapped and page-aligned. `memory` is declared before `vm` and
    // so unmapped after the VM is gone.
    unsafe { vm.set_user_memory_region(region) }.map_err(fail("give a VM memory"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(fail("create a processor"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(fail("tell the processor's features"))?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(fail("set the processor's features"))?;
    set_registers(&vcpu).map_err(fail("set a processor's registers"))?;
    measure(&mut vcpu)
}

fn measure(vcpu: &mut VcpuFd) -> Result<(), String> {
    expect(vcpu, PRIVILEGED)?;
    fast_enough("kernel", rate(vcpu, RING_0)?)?;
    fast_enough("user", rate(vcpu, RING_3)?)
}

/// Instructions per second over the best round, so that a busy host does not look slow.
fn rate(vcpu: &mut VcpuFd, report: u8) -> Result<f64, String> {
    expect(vcpu, report)?;
    let mut best = 0.0_f64;
    for _ in 1..ROUNDS {
        let start = Instant::now();
        expect(vcpu, report)?;
        best = best.max(ROUND_INSTRUCTIONS / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Runs the guest until it reports, which must be with `report`.
fn expect(vcpu: &mut VcpuFd, report: u8) -> Result<(), String> {
    let mode = if report == RING_3 { "user" } else { "kernel" };
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, [byte])) if *byte == report => return Ok(()),
            Ok(exit) => {
                return Err(format!(
                    "guest code in {mode} mode stopped KVM with {exit:?}"
                ));
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(error) => return Err(format!("KVM cannot run a guest's {mode} mode: {error}")),
        }
    }
}

fn set_registers(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut system = vcpu.get_sregs()?;
    let segment = |selector, type_, l| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        l,
        db: u8::from(l == 0),
        g: 1,
        ..kvm_segment::default()
    };
    system.cs = segment(0x08, 0xb, 1);
    for data in [
        &mut system.ds,
        &mut system.es,
        &mut system.fs,
        &mut system.gs,
        &mut system.ss,
    ] {
        *data = segment(0x10, 0x3, 0);
    }
    system.cr0 = 0x8005_0033; // protected, paged, with an FPU
    system.cr3 = PAGES as u64;
    system.cr4 = 0x620; // physical address extension, SSE
    system.efer = 0x500; // 64-bit mode, enabled and active
    vcpu.set_sregs(&system)?;
    let mut registers = vcpu.get_regs()?;
    registers.rip = CODE as u64;
    registers.rsp = 0xa000;
    registers.r8 = 0;
    registers.rflags = 2;
    vcpu.set_regs(&registers)
}

/// The guest's memory: an anonymous mapping.
struct Memory(*mut u8);

impl Memory {
    fn new() -> Result<Self, rustix::io::Errno> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                MEMORY,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        Ok(Self(start.cast()))
    }

    /// Writes tables and code. Only before the guest runs.
    fn fill(&mut self) {
        for (index, descriptor) in DESCRIPTORS.iter().enumerate() {
            self.write(GDT + index * 8, &descriptor.to_le_bytes());
        }
        let size = (size_of_val(&DESCRIPTORS) - 1) as u16;
        self.write(TABLES, &size.to_le_bytes());
        self.write(TABLES + 2, &(GDT as u64).to_le_bytes());
        // No interrupt is expected, so the IDT is empty and any fault stops the guest.
        self.write(TABLES + 16, &[0; 10]);
        self.write(TSS, &[0; 0x68]);
        // One 2 MiB page, for the user too: present, writable, user; large.
        let levels = [PAGES as u64 + 0x1000 + 7, PAGES as u64 + 0x2000 + 7, 0x87];
        for (level, entry) in levels.iter().enumerate() {
            self.write(PAGES + level * 0x1000, &entry.to_le_bytes());
        }
        self.write(CODE, code());
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= MEMORY, "the layout fits");
        // SAFETY: in bounds of the mapping, which nobody else uses yet.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(at), bytes.len()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this very mapping; the VM that used it is dropped before.
        let _ = unsafe { rustix::mm::munmap(self.0.cast(), MEMORY) };
    }
}

fn code() -> &'static [u8] {
    // SAFETY: both labels are in the one section above, the second after the first, and
    // what lies between is initialised and never changes.
    unsafe {
        let start = &raw const hearth_probe_start;
        let end = &raw const hearth_probe_end;
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    }
}
