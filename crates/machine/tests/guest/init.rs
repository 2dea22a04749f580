//! The whole user space of the test guest: counts aloud on the console, and writes one
//! page of memory more at each count.

use std::time::Duration;

fn main() {
    let mut memory = vec![0_u8; 64 << 20];
    let mut count = 0_usize;
    loop {
        let page = count * 4096 % memory.len();
        memory[page..page + 4096].fill(0xa5);
        println!("tick {count}");
        count += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
}
