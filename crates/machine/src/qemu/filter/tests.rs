use seccompiler::sock_filter;

use super::*;

/// What the kernel does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Errno(i32),
    KillProcess,
}

const X86_64: u32 = 0xc000_003e;

/// Runs a filter as the kernel does (linux/filter.h), as far as ours go.
fn evaluate(program: &[sock_filter], call: u32, arguments: [u64; 6]) -> u32 {
    let words: Vec<u32> = [u64::from(call) | u64::from(X86_64) << 32, 0]
        .iter()
        .chain(&arguments)
        .flat_map(|word| [*word as u32, (*word >> 32) as u32])
        .collect();
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let it = &program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { it.jt } else { it.jf });
        match it.code {
            0x20 => accumulator = words[it.k as usize / 4],
            0x54 => accumulator &= it.k,
            0x05 => at += it.k as usize,
            0x15 => at += jump(accumulator == it.k),
            0x25 => at += jump(accumulator > it.k),
            0x35 => at += jump(accumulator >= it.k),
            0x06 => return it.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// The verdict of all filters together: the strictest one counts.
fn verdict(accelerator: &Accelerator, call: i64, arguments: [u64; 6]) -> Verdict {
    let [refused, allowed] = run_time(accelerator).unwrap();
    let mut strictest = Verdict::Allow;
    for program in [start_up().unwrap(), refused, allowed] {
        match evaluate(&program, u32::try_from(call).unwrap(), arguments) {
            0x8000_0000 => return Verdict::KillProcess,
            0x7fff_0000 => {}
            errno if errno & 0xffff_0000 == 0x0005_0000 => {
                strictest = Verdict::Errno(i32::try_from(errno & 0xffff).unwrap());
            }
            other => panic!("answer {other:#x}"),
        }
    }
    strictest
}

fn tcg() -> Accelerator {
    Accelerator::Tcg {
        reason: "test".to_owned(),
    }
}

#[test]
fn every_filter_fits_the_kernel_and_the_library() {
    for accelerator in [&tcg(), &Accelerator::Kvm] {
        let [refused, allowed] = run_time(accelerator).unwrap();
        for program in [&refused, &allowed, &start_up().unwrap()] {
            assert!((1..4096).contains(&program.len()));
        }
        let (_, bytes) = table(accelerator).unwrap();
        assert_eq!(bytes, 16 + 8 * (refused.len() + allowed.len()));
    }
}

/// docs/security.md says how many calls are left.
#[test]
fn the_documented_number_of_calls_is_left() {
    let limited = with_arguments(&tcg()).unwrap().len();
    let plain = |accelerator: &Accelerator| {
        (0..1024)
            .filter(|call| !with_arguments(accelerator).unwrap().contains_key(call))
            .filter(|call| verdict(accelerator, *call, [0; 6]) == Verdict::Allow)
            .count()
    };
    let (emulated, kvm) = (plain(&tcg()) + limited, plain(&Accelerator::Kvm) + limited);
    let said = format!("{emulated} system calls ({kvm} with KVM), {limited} of them with");
    let docs = include_str!("../../../../../docs/security.md").replace('\n', " ");
    assert!(docs.contains(&said), "{said}");
}

#[test]
fn arguments_decide() {
    let tcg = tcg();
    let at = |place: usize, value: u64| {
        let mut arguments = [0; 6];
        arguments[place] = value;
        arguments
    };
    let both = |call, arguments| {
        let verdicts = [&tcg, &Accelerator::Kvm].map(|it| verdict(it, call, arguments));
        assert_eq!(verdicts[0], verdicts[1]);
        verdicts[0]
    };
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        assert_eq!(both(call, at(2, 3)), Verdict::Allow);
        for prot in [4, 5, 7, 0x1_0000_0004] {
            assert_eq!(both(call, at(2, prot)), Verdict::KillProcess, "{prot}");
        }
    }
    assert_eq!(both(libc::SYS_clone, at(0, 0x003d_0f00)), Verdict::Allow);
    // fork, and a thread in a user namespace of its own.
    for flags in [17, 0x003d_0f00 | 0x1000_0000] {
        assert_eq!(both(libc::SYS_clone, at(0, flags)), Verdict::KillProcess);
    }
    assert_eq!(both(libc::SYS_socket, at(0, 1)), Verdict::Allow);
    for family in [2, 10, 16, 17, 40] {
        assert_eq!(both(libc::SYS_socket, at(0, family)), Verdict::KillProcess);
    }
    assert_eq!(both(libc::SYS_fcntl, at(1, 1030)), Verdict::Allow);
    assert_eq!(both(libc::SYS_fcntl, at(1, 1033)), Verdict::KillProcess);
    assert_eq!(both(libc::SYS_tgkill, at(2, 10)), Verdict::Allow);
    assert_eq!(both(libc::SYS_tgkill, at(2, 9)), Verdict::KillProcess);
    // TUNSETOFFLOAD, TUNSETIFF, TIOCSTI.
    assert_eq!(both(libc::SYS_ioctl, at(1, 0x4004_54d0)), Verdict::Allow);
    for request in [0x4004_54ca, 0x5412] {
        assert_eq!(both(libc::SYS_ioctl, at(1, request)), Verdict::KillProcess);
    }
    assert_eq!(both(libc::SYS_openat, [0; 6]), Verdict::Errno(libc::EACCES));
    assert_eq!(both(libc::SYS_clone3, [0; 6]), Verdict::Errno(libc::ENOSYS));
    // The x32 form of a call that is allowed.
    assert_eq!(both(0x4000_0000, [0; 6]), Verdict::KillProcess);
}

#[test]
fn kvm_is_driven_and_nothing_is_made_with_it() {
    let request = |request: u64| {
        let arguments = [0, request, 0, 0, 0, 0];
        [&tcg(), &Accelerator::Kvm].map(|it| verdict(it, libc::SYS_ioctl, arguments))
    };
    // KVM_RUN, KVM_SET_USER_MEMORY_REGION, KVM_GET_MSRS.
    for driven in [0xae80, 0x4020_ae46, 0xc008_ae88] {
        assert_eq!(request(driven), [Verdict::KillProcess, Verdict::Allow]);
    }
    for made in KVM_MAKES {
        assert_eq!(request(made), [Verdict::KillProcess; 2], "{made:#x}");
    }
}
