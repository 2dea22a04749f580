//! The whole user space of the test guest: counts aloud on the console, and writes one
//! page of memory more at each count. Where the kernel's command line says `end`, it ends
//! after the fifth, which ends the VM.

use std::time::Duration;

fn main() {
    let end = std::env::args().any(|argument| argument == "end");
    let mut memory = vec![0_u8; 64 << 20];
    let mut count = 0_usize;
    loop {
        let page = count * 4096 % memory.len();
        memory[page..page + 4096].fill(0xa5);
        println!("tick {count}");
        if end && count == 5 {
            return;
        }
        count += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
}
