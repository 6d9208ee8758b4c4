//! A library between `ddpm` and Open MPI that kills the process at a call of MPI.
//!
//! KILL_AT is the number of a call of MPI_Ialltoallv, which sums gradients, or of MPI_Iallgatherv with KILL_CALL=gather, whose
//! calls come before the last pass of a step; KILL_AFTER_MS milliseconds later, the process gets SIGKILL.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

unsafe extern "C" {
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn kill(process: c_int, signal: c_int) -> c_int;
}

/// RTLD_NEXT: the library that comes after this one.
const NEXT: *mut c_void = -1isize as *mut c_void;

static CALLS: AtomicUsize = AtomicUsize::new(0);

fn count(call: &str) {
    let wanted = std::env::var("KILL_CALL").unwrap_or_else(|_| "sum".into());
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if wanted == call && number("KILL_AT") == Some(CALLS.fetch_add(1, Ordering::SeqCst) as u64 + 1) {
        let delay = Duration::from_millis(number("KILL_AFTER_MS").unwrap_or(0));
        let end = move || {
            std::thread::sleep(delay);
            // SAFETY: a call of the system.
            unsafe { kill(std::process::id() as c_int, 9) };
        };
        if delay.is_zero() { end() } else { drop(std::thread::spawn(end)) }
    }
}

/// MPI_Ialltoallv, whose ten arguments are of the size of a register.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn MPI_Ialltoallv(
    a: usize, b: usize, c: usize, d: usize, e: usize, f: usize, g: usize, h: usize, i: usize, j: usize,
) -> c_int {
    count("sum");
    type Function = unsafe extern "C" fn(
        usize, usize, usize, usize, usize, usize, usize, usize, usize, usize,
    ) -> c_int;
    // SAFETY: the next library's function of the same name and type.
    unsafe {
        let next: Function = std::mem::transmute(dlsym(NEXT, c"MPI_Ialltoallv".as_ptr()));
        next(a, b, c, d, e, f, g, h, i, j)
    }
}

/// MPI_Iallgatherv, whose second argument is an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn MPI_Iallgatherv(
    a: usize, b: c_int, c: usize, d: usize, e: usize, f: usize, g: usize, h: usize, i: usize,
) -> c_int {
    count("gather");
    type Function = unsafe extern "C" fn(
        usize, c_int, usize, usize, usize, usize, usize, usize, usize,
    ) -> c_int;
    // SAFETY: as above.
    unsafe {
        let next: Function = std::mem::transmute(dlsym(NEXT, c"MPI_Iallgatherv".as_ptr()));
        next(a, b, c, d, e, f, g, h, i)
    }
}
