//! A bad network between two network namespaces: packets take DELAY_US microseconds, and one of LOSS is lost.
//!
//! `link NAMESPACE_A NAMESPACE_B DELAY_US LOSS`, as root. Each namespace gets a device `link0`. It runs until it is killed.

use std::ffi::{c_int, c_ulong};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn setns(fd: c_int, kind: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, argument: *mut u8) -> c_int;
}

const CLONE_NEWNET: c_int = 0x4000_0000;
const TUNSETIFF: c_ulong = 0x4004_54ca;
/// IFF_TUN | IFF_NO_PI: whole IP packets.
const FLAGS: u16 = 0x1001;

fn device(namespace: &str) -> File {
    let network = File::open(format!("/var/run/netns/{namespace}")).expect("a network namespace");
    // SAFETY: a call of the system with an open file.
    assert_eq!(unsafe { setns(network.as_raw_fd(), CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    // struct ifreq: 16 bytes of the name, then the flags.
    let mut request = [0u8; 40];
    request[..5].copy_from_slice(b"link0");
    request[16..18].copy_from_slice(&FLAGS.to_ne_bytes());
    // SAFETY: the request is as long as the system's structure.
    let code = unsafe { ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
    device
}

fn forward(mut from: File, mut to: File, delay: Duration, loss: u64) {
    let (sender, receiver) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (due, packet) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // The other side may be down at the moment.
            let _ = to.write(&packet);
        }
    });
    thread::spawn(move || {
        let (mut buffer, mut state) = (vec![0; 1 << 16], 0x2545_f491_4f6c_dd1d_u64);
        loop {
            let Ok(length) = from.read(&mut buffer) else {
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (state >> 33) % loss != 0 {
                let _ = sender.send((Instant::now() + delay, buffer[..length].to_vec()));
            }
        }
    });
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [a, b, delay, loss] = &arguments[..] else { panic!("expected NAMESPACE_A NAMESPACE_B DELAY_US LOSS") };
    let (a, b) = (device(a), device(b));
    let (delay, loss) = (Duration::from_micros(delay.parse().unwrap()), loss.parse().unwrap());
    forward(a.try_clone().unwrap(), b.try_clone().unwrap(), delay, loss);
    forward(b, a, delay, loss);
    println!("up");
    loop {
        thread::park();
    }
}
