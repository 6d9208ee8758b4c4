//! A library for `LD_PRELOAD` that counts the calls of a process which change files, and fails one of them.
//!
//! `FAULT_LOG` names a file that grows by one byte with each counted call. The call number `FAULT_AT`, from 1, fails as
//! `FAULT_KIND` says:
//!
//! - `kill`: the process is killed before the call;
//! - `tear`: it is killed after the call, of which a write has written only the first half;
//! - `full`: the call and all later ones that need space fail with ENOSPC;
//! - `io`: the call alone fails with EIO.
//!
//! The test compiles it with `rustc` alone, so it declares what it needs of the C library itself. It must not use the
//! standard library's files, which would call it.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

const RTLD_NEXT: *mut c_void = -1_isize as *mut c_void;
const O_WRITES: c_int = 0o3 | 0o100;
const O_APPEND_CREATE: c_int = 0o1 | 0o100 | 0o2000 | 0o2000000;
const EIO: c_int = 5;
const ENOSPC: c_int = 28;
const SIGKILL: c_int = 9;
const SYS_WRITE: c_long = 1;
const SYS_OPEN: c_long = 2;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn getenv(name: *const c_char) -> *const c_char;
    fn kill(process: c_int, signal: c_int) -> c_int;
    fn getpid() -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn __errno_location() -> *mut c_int;
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Kill after the call.
    Tear,
    Error(c_int),
}

/// Counts a call. `needs_space` says whether a full disk lets it fail.
fn count(needs_space: bool) -> Fault {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::SeqCst) + 1;
    log_call();
    let at = variable(c"FAULT_AT").and_then(|text| text.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    let kind = variable(c"FAULT_KIND").map_or(&b""[..], CStr::to_bytes);
    match kind {
        b"full" if at > 0 && call >= at && needs_space => Fault::Error(ENOSPC),
        b"io" if call == at => Fault::Error(EIO),
        b"tear" if call == at => Fault::Tear,
        b"kill" if call == at => die(),
        _ => Fault::None,
    }
}

fn log_call() {
    static LOG: AtomicI32 = AtomicI32::new(-1);
    let Some(path) = variable(c"FAULT_LOG") else { return };
    unsafe {
        if LOG.load(Ordering::SeqCst) < 0 {
            LOG.store(syscall(SYS_OPEN, path.as_ptr(), O_APPEND_CREATE, 0o600) as c_int, Ordering::SeqCst);
        }
        syscall(SYS_WRITE, LOG.load(Ordering::SeqCst), c".".as_ptr(), 1_usize);
    }
}

fn variable(name: &CStr) -> Option<&'static CStr> {
    let value = unsafe { getenv(name.as_ptr()) };
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

fn die() -> ! {
    unsafe { kill(getpid(), SIGKILL) };
    loop {}
}

/// Counts a call, and makes it unless it is to fail.
fn call(needs_space: bool, make: impl FnOnce() -> isize) -> isize {
    match count(needs_space) {
        Fault::None => make(),
        Fault::Tear => {
            make();
            die()
        }
        Fault::Error(code) => {
            unsafe { *__errno_location() = code };
            -1
        }
    }
}

/// Returns the C library's function of this name.
macro_rules! real {
    ($name:literal, $type:ty) => {
        unsafe { std::mem::transmute::<*mut c_void, $type>(dlsym(RTLD_NEXT, $name.as_ptr())) }
    };
}

#[unsafe(no_mangle)]
extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let open = real!(c"open64", extern "C" fn(*const c_char, c_int, c_uint) -> c_int);
    if flags & O_WRITES == 0 {
        return open(path, flags, mode);
    }
    call(true, || open(path, flags, mode) as isize) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn write(file: c_int, bytes: *const c_void, length: usize) -> isize {
    let write = real!(c"write", extern "C" fn(c_int, *const c_void, usize) -> isize);
    if file <= 2 {
        return write(file, bytes, length);
    }
    match count(true) {
        Fault::None => write(file, bytes, length),
        Fault::Tear => {
            write(file, bytes, length / 2);
            die()
        }
        Fault::Error(code) => {
            unsafe { *__errno_location() = code };
            -1
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let rename = real!(c"rename", extern "C" fn(*const c_char, *const c_char) -> c_int);
    call(false, || rename(from, to) as isize) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn mkdir(path: *const c_char, mode: c_uint) -> c_int {
    let mkdir = real!(c"mkdir", extern "C" fn(*const c_char, c_uint) -> c_int);
    call(true, || mkdir(path, mode) as isize) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn unlink(path: *const c_char) -> c_int {
    let unlink = real!(c"unlink", extern "C" fn(*const c_char) -> c_int);
    call(false, || unlink(path) as isize) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn rmdir(path: *const c_char) -> c_int {
    let rmdir = real!(c"rmdir", extern "C" fn(*const c_char) -> c_int);
    call(false, || rmdir(path) as isize) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn unlinkat(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    let unlinkat = real!(c"unlinkat", extern "C" fn(c_int, *const c_char, c_int) -> c_int);
    call(false, || unlinkat(folder, path, flags) as isize) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn fsync(file: c_int) -> c_int {
    let fsync = real!(c"fsync", extern "C" fn(c_int) -> c_int);
    call(true, || fsync(file) as isize) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(file: c_int, length: i64) -> c_int {
    let ftruncate = real!(c"ftruncate64", extern "C" fn(c_int, i64) -> c_int);
    call(true, || ftruncate(file, length) as isize) as c_int
}
