//! The functions of an MPI library, loaded at run time.
//!
//! MPI is a C interface, but before MPI 5 each implementation had its own binary one. Three families cover nearly all
//! installations; they differ in the types of handles (pointers or integers) and in the values of constants:
//!
//! | family | library | handles |
//! |---|---|---|
//! | the ABI of the MPI standard, version 5.0, chapter 20 | `libmpi_abi.so.1` | constants of pointer type |
//! | Open MPI 4 and 5 | `libmpi.so.40` | addresses of objects in the library |
//! | MPICH and its relatives (Intel MPI, MVAPICH, Cray) | `libmpi.so.12`, `libmpich.so.12` | 32-bit integers |
//!
//! A handle is passed as a register of pointer size, of which the functions with 32-bit handles read the lower half.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::{Error, Launch};

type Handle = usize;
type Init = unsafe extern "C" fn(*mut c_int, *mut c_void, c_int, *mut c_int) -> c_int;
type Number = unsafe extern "C" fn(Handle, *mut c_int) -> c_int;
type Split = unsafe extern "C" fn(Handle, c_int, c_int, Handle, *mut Handle) -> c_int;
type Gather = unsafe extern "C" fn(
    *const f32,
    c_int,
    Handle,
    *mut f32,
    *const c_int,
    *const c_int,
    Handle,
    Handle,
    *mut Handle,
) -> c_int;
type Exchange = unsafe extern "C" fn(
    *const f32,
    *const c_int,
    *const c_int,
    Handle,
    *mut f32,
    *const c_int,
    *const c_int,
    Handle,
    Handle,
    *mut Handle,
) -> c_int;
type Test = unsafe extern "C" fn(*mut Handle, *mut c_int, *mut Status) -> c_int;
type Abort = unsafe extern "C" fn(Handle, c_int) -> c_int;
type Version = unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int;
type AbiVersion = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
type Finalize = unsafe extern "C" fn() -> c_int;

/// Room for an `MPI_Status`, which is of 20 to 32 bytes.
#[repr(C, align(16))]
struct Status([u8; 256]);

/// The functions and constants that are used. The only data type is MPI_FLOAT, whose 4 bytes are copied as they are.
pub(crate) struct Functions {
    /// The name that was loaded, for messages.
    pub name: String,
    world: Handle,
    float: Handle,
    info_null: Handle,
    /// MPI_COMM_TYPE_SHARED: the processes of one machine.
    shared: c_int,
    /// MPI_THREAD_FUNNELED: only the thread that initialized MPI calls it.
    funneled: c_int,
    init: Init,
    rank: Number,
    size: Number,
    split: Split,
    gather: Gather,
    exchange: Exchange,
    test: Test,
    abort: Abort,
    version: Version,
    finalize: Finalize,
    /// Never unloaded: Open MPI registers functions that run when the process ends.
    _library: std::mem::ManuallyDrop<Library>,
}

/// MPI_COMM_WORLD, MPI_FLOAT and MPI_INFO_NULL of MPI 5's ABI.
const ABI: [Handle; 3] = [0x101, 0x210, 0x130];
/// MPI_COMM_WORLD, MPI_FLOAT and MPI_INFO_NULL of MPICH's ABI.
const MPICH: [Handle; 3] = [0x4400_0000, 0x4c00_040a, 0x1c00_0000];

impl Functions {
    /// Loads the library that fits the launcher, or the one that `DDPM_MPI` names.
    pub fn load(launch: &Launch) -> Result<Self, Error> {
        let named = std::env::var("DDPM_MPI").ok().filter(|path| !path.is_empty());
        let names: Vec<&str> = match (&named, launch.is_pmix) {
            (Some(path), _) => vec![path],
            (None, true) => vec!["libmpi_abi.so.1", "libmpi.so.40", "libmpi.so.12", "libmpich.so.12"],
            (None, false) => vec!["libmpi_abi.so.1", "libmpi.so.12", "libmpich.so.12", "libmpi.so.40"],
        };
        let mut tried = Vec::new();
        for name in names {
            // SAFETY: loading runs the initializers of a library that the user installed as MPI. Open MPI loads plug-ins
            // that look for the library's symbols among the global ones.
            match unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(library) => return Self::of(library, name),
                Err(error) => tried.push(format!("{name}: {}", reason(&error))),
            }
        }
        let size = launch.size.map_or("several".to_owned(), |size| size.to_string());
        Err(Error::NoLibrary { rank: launch.rank, size, tried: tried.join("; ") })
    }

    fn of(library: Library, name: &str) -> Result<Self, Error> {
        let missing = |symbol: &str| Error::NoSymbol { library: name.to_owned(), symbol: symbol.to_owned() };
        let address = |symbol: &str| -> Result<*mut c_void, Error> {
            // SAFETY: the symbol is only taken as an address here.
            let found = unsafe { library.get::<*mut c_void>(symbol) };
            let address = found.map_or(null_mut(), libloading::os::unix::Symbol::into_raw);
            if address.is_null() { Err(missing(symbol)) } else { Ok(address) }
        };
        /// A function by the name and type that the MPI standard gives it.
        macro_rules! function {
            ($name:literal, $type:ty) => {{
                let address = address($name)?;
                // SAFETY: all implementations have these functions with these types, but for the types of handles.
                unsafe { std::mem::transmute::<*mut c_void, $type>(address) }
            }};
        }
        // Libraries with an interface of their own report version −1 of the standard's. It may be called before MPI_Init.
        let is_abi = match address("MPI_Abi_get_version") {
            Ok(_) => {
                let (mut major, mut minor) = (-1, -1);
                let version = function!("MPI_Abi_get_version", AbiVersion);
                // SAFETY: the function writes two integers.
                unsafe { version(&mut major, &mut minor) == 0 && major >= 1 }
            }
            Err(_) => false,
        };
        let (handles, shared, funneled) = match address("ompi_mpi_comm_world").is_ok() {
            _ if is_abi => (ABI, 221, 1024),
            true => {
                let object = |name: &str| address(name).map(|address| address as Handle);
                let handles =
                    [object("ompi_mpi_comm_world")?, object("ompi_mpi_float")?, object("ompi_mpi_info_null")?];
                (handles, 0, 1)
            }
            false => (MPICH, 1, 1),
        };
        let [world, float, info_null] = handles;
        Ok(Self {
            name: name.to_owned(),
            world,
            float,
            info_null,
            shared,
            funneled,
            init: function!("MPI_Init_thread", Init),
            rank: function!("MPI_Comm_rank", Number),
            size: function!("MPI_Comm_size", Number),
            split: function!("MPI_Comm_split_type", Split),
            gather: function!("MPI_Iallgatherv", Gather),
            exchange: function!("MPI_Ialltoallv", Exchange),
            test: function!("MPI_Test", Test),
            abort: function!("MPI_Abort", Abort),
            version: function!("MPI_Get_library_version", Version),
            finalize: function!("MPI_Finalize", Finalize),
            _library: std::mem::ManuallyDrop::new(library),
        })
    }

    /// Initializes MPI. All later calls but [`Functions::abort`] are made by the same thread.
    pub fn init(&self) -> Result<(), Error> {
        let mut provided = 0;
        // SAFETY: null pointers stand for the arguments of `main`, which MPI 2 and later do not need.
        check("MPI_Init_thread", unsafe { (self.init)(null_mut(), null_mut(), self.funneled, &mut provided) })
    }

    /// Returns the rank and size of the job.
    pub fn rank_and_size(&self) -> Result<(usize, usize), Error> {
        self.rank_and_size_of(self.world)
    }

    /// Returns the rank and size among the processes of this machine.
    pub fn local(&self) -> Result<(usize, usize), Error> {
        let mut machine: Handle = 0;
        // SAFETY: the new communicator is written to `machine`, which has the size of the larger kind of handle.
        let code = unsafe { (self.split)(self.world, self.shared, 0, self.info_null, &mut machine) };
        check("MPI_Comm_split_type", code)?;
        self.rank_and_size_of(machine)
    }

    fn rank_and_size_of(&self, communicator: Handle) -> Result<(usize, usize), Error> {
        let (mut rank, mut size) = (0, 0);
        // SAFETY: each function writes one integer.
        check("MPI_Comm_rank", unsafe { (self.rank)(communicator, &mut rank) })?;
        // SAFETY: as above.
        check("MPI_Comm_size", unsafe { (self.size)(communicator, &mut size) })?;
        Ok((rank as usize, size as usize))
    }

    /// Returns the first line of the library's description of itself.
    pub fn version(&self) -> String {
        // MPI_MAX_LIBRARY_VERSION_STRING is 256 in Open MPI and 8192 in MPICH and in the ABI.
        let mut text = vec![0u8; 16384];
        let mut length = 0;
        // SAFETY: the buffer is longer than any library's limit.
        let code = unsafe { (self.version)(text.as_mut_ptr().cast(), &mut length) };
        let text = text.get(..length.max(0) as usize).filter(|_| code == 0).unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let line = text.split(['\n', ',', '\0']).next().unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Gathers the values of all ranks, `counts[r]` of rank r, one after the other.
    pub fn all_gather(&self, mine: &[f32], counts: &Counts, out: &mut [f32]) -> Result<(), Error> {
        assert!(counts.fit(out.len()), "the buffer holds the values of all ranks");
        let (Ok(count), float) = (c_int::try_from(mine.len()), self.float) else {
            return Err(Error::TooLong(mine.len() * 4));
        };
        let (lengths, starts) = counts.pointers();
        let mut request: Handle = 0;
        // SAFETY: the buffers are as long as the counts say, and live until the request is complete.
        let code = unsafe {
            let out = out.as_mut_ptr();
            (self.gather)(mine.as_ptr(), count, float, out, lengths, starts, float, self.world, &mut request)
        };
        check("MPI_Iallgatherv", code)?;
        self.wait(request)
    }

    /// Sends a part of `mine` to each rank and receives a part of `out` from each.
    pub fn all_to_all(&self, mine: &[f32], sent: &Counts, out: &mut [f32], received: &Counts) -> Result<(), Error> {
        assert!(sent.fit(mine.len()) && received.fit(out.len()), "the buffers are as long as their parts");
        let (send_lengths, send_starts) = sent.pointers();
        let (lengths, starts) = received.pointers();
        let (float, mut request) = (self.float, 0);
        // SAFETY: as in `all_gather`.
        let code = unsafe {
            let (mine, out) = (mine.as_ptr(), out.as_mut_ptr());
            let world = self.world;
            (self.exchange)(mine, send_lengths, send_starts, float, out, lengths, starts, float, world, &mut request)
        };
        check("MPI_Ialltoallv", code)?;
        self.wait(request)
    }

    /// Waits for a request. Libraries wait by asking again and again, at the cost of a core; after some milliseconds this
    /// leaves the core to the threads that compute, which other processes may be waiting for.
    fn wait(&self, mut request: Handle) -> Result<(), Error> {
        let start = std::time::Instant::now();
        let mut status = Status([0; 256]);
        loop {
            let mut done = 0;
            // SAFETY: the request is an active one, and the status has more room than any library's. Errors of requests end
            // the program, as long as nobody sets another error handler, so the buffers live until the request is complete.
            check("MPI_Test", unsafe { (self.test)(&mut request, &mut done, &mut status) })?;
            if done != 0 {
                return Ok(());
            }
            match start.elapsed() {
                waited if waited < SPIN => std::thread::yield_now(),
                _ => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Ends all processes of the job. Any thread may call it, since no other call follows.
    pub fn abort(&self, code: i32) {
        // SAFETY: the function takes a handle and an integer.
        unsafe { (self.abort)(self.world, code) };
    }

    /// Ends the use of MPI, when all processes have called it.
    pub fn finalize(&self) {
        // SAFETY: the function takes no arguments.
        unsafe { (self.finalize)() };
    }
}

/// The time for which a core is kept busy to wait for a message.
const SPIN: std::time::Duration = std::time::Duration::from_millis(10);
/// The time between two looks for a message afterwards.
const PAUSE: std::time::Duration = std::time::Duration::from_micros(50);

fn check(function: &'static str, code: c_int) -> Result<(), Error> {
    if code == 0 { Ok(()) } else { Err(Error::Call { function, code }) }
}

/// Returns the system's reason why a library could not be loaded.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The parts of a buffer, one for each rank.
pub(crate) struct Counts {
    lengths: Vec<c_int>,
    starts: Vec<c_int>,
}

impl Counts {
    /// Parts of these lengths, one after the other.
    ///
    /// # Errors
    /// If MPI's 32-bit counts cannot express them.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Result<Self, Error> {
        let (mut counts, mut start) = (Self { lengths: Vec::new(), starts: Vec::new() }, 0usize);
        for length in lengths {
            let number = |n: usize| c_int::try_from(n).map_err(|_| Error::TooLong(n.saturating_mul(4)));
            counts.starts.push(number(start)?);
            counts.lengths.push(number(length)?);
            start += length;
        }
        number_fits(start)?;
        Ok(counts)
    }

    /// The same values for each rank.
    ///
    /// # Errors
    /// As [`Counts::new`].
    pub fn same(length: usize, ranks: usize) -> Result<Self, Error> {
        let mut counts = Self::new(vec![length])?;
        counts.lengths = vec![counts.lengths[0]; ranks];
        counts.starts = vec![0; ranks];
        Ok(counts)
    }

    /// Returns whether all parts lie in a buffer of some length.
    fn fit(&self, length: usize) -> bool {
        self.starts.iter().zip(&self.lengths).all(|(&start, &part)| start as usize + part as usize <= length)
    }

    /// Returns the length of the buffer.
    pub fn total(&self) -> usize {
        self.lengths.iter().map(|&length| length as usize).sum()
    }

    fn pointers(&self) -> (*const c_int, *const c_int) {
        (self.lengths.as_ptr(), self.starts.as_ptr())
    }
}

fn number_fits(n: usize) -> Result<(), Error> {
    c_int::try_from(n).map(|_| ()).map_err(|_| Error::TooLong(n.saturating_mul(4)))
}
