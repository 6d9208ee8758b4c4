//! The processes of an MPI job.

use std::cell::RefCell;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::communicator::PendingSum;
use crate::library::{Counts, Functions};
use crate::{Communicator, Error, Launch, tree};

/// The processes of an MPI job.
///
/// All calls of MPI are made by one thread of its own, so that any thread may use this type and sums proceed while the
/// others compute. Dropping it waits for all processes and ends the use of MPI.
pub struct Mpi {
    rank: usize,
    size: usize,
    local: (usize, usize),
    library: String,
    functions: Arc<Functions>,
    /// Absent once the thread is to end.
    work: Mutex<Option<Sender<Work>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Something to be done by the thread that calls MPI.
type Work = Box<dyn FnOnce(&World) + Send>;

/// The job as the thread that calls MPI sees it.
struct World {
    functions: Arc<Functions>,
    rank: usize,
    size: usize,
    /// Room for the parts of a sum.
    buffer: RefCell<Vec<f32>>,
}

/// The facts that the thread reports when MPI is initialized.
struct Joined {
    rank: usize,
    size: usize,
    local: (usize, usize),
    version: String,
}

impl Mpi {
    /// Loads the MPI library and joins the job that a launcher started.
    ///
    /// # Errors
    /// If there is no library, or it is that of another launcher.
    pub fn join(launch: &Launch) -> Result<Self, Error> {
        let functions = Arc::new(Functions::load(launch)?);
        let (work, received) = channel::<Work>();
        let (report, joined) = channel();
        let shared = functions.clone();
        let thread = Builder::new().name("mpi".into()).spawn(move || call_mpi(shared, &report, &received));
        let thread = thread.map_err(|error| Error::Thread(format!("cannot be started: {error}")))?;
        let Joined { rank, size, local, version } =
            joined.recv().unwrap_or_else(|_| Err(Error::Thread("ended during MPI_Init".into())))?;
        let library = format!("{version} ({})", functions.name);
        let mpi = Self {
            rank,
            size,
            local,
            library,
            functions,
            work: Mutex::new(Some(work)),
            thread: Mutex::new(Some(thread)),
        };
        // A library that does not know the launcher makes each process a job of its own.
        if launch.size.is_some_and(|launched| launched != size) || (launch.size.is_none() && launch.rank != rank) {
            let launched = launch.size.unwrap_or(launch.rank + 1);
            mpi.leave();
            return Err(Error::OtherLauncher { launched, found: size, library: mpi.library.clone() });
        }
        Ok(mpi)
    }

    /// The rank on this machine and the number of ranks on it.
    pub fn local(&self) -> (usize, usize) {
        self.local
    }

    /// The name and version of the library.
    pub fn library(&self) -> &str {
        &self.library
    }

    /// Ends the use of MPI, when all processes do. No other call may follow.
    pub fn leave(&self) {
        // The thread ends with the last work.
        drop(self.work.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // If it panicked, that was reported.
            let _ = thread.join();
        }
    }

    /// Ends all processes of the job with a status. It may be called on any thread, at any time.
    pub fn abort(&self, status: i32) -> ! {
        // Without waiting for the lock: the thread that holds it may be the one that fails.
        if self.work.try_lock().is_ok_and(|work| work.is_none()) {
            // MPI has ended, and so have the others.
            std::process::exit(status);
        }
        self.functions.abort(status);
        // The function does not return in any library that is known.
        std::process::abort()
    }

    /// Calls a function on the thread of MPI and sends its result.
    fn start<T: Send + 'static>(
        &self,
        function: impl FnOnce(&World) -> Result<T, Error> + Send + 'static,
    ) -> Receiver<Result<T, Error>> {
        let (reply, result) = channel();
        let work: Work = Box::new(move |world| {
            // Nobody waits for the result of work that was given up.
            let _ = reply.send(function(world));
        });
        if let Some(sender) = &*self.work.lock().unwrap_or_else(PoisonError::into_inner) {
            // If the thread has ended, the receiver of the result reports it.
            let _ = sender.send(work);
        }
        result
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let mine = mine.to_vec();
        let result = self.start(move |world| world.all_gather(&mine));
        result.recv().unwrap_or_else(|_| Err(Error::Thread("has ended".into())))
    }

    fn start_sum(&self, leaves: usize, subtrees: Vec<Vec<f32>>) -> PendingSum {
        PendingSum(self.start(move |world| world.sum(leaves, subtrees)))
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Initializes MPI, does the work that is received, and finalizes MPI.
fn call_mpi(functions: Arc<Functions>, report: &Sender<Result<Joined, Error>>, work: &Receiver<Work>) {
    let joined = functions.init().and_then(|()| {
        let (rank, size) = functions.rank_and_size()?;
        Ok(Joined { rank, size, local: functions.local()?, version: functions.version() })
    });
    let world = joined.as_ref().ok().map(|joined| (joined.rank, joined.size));
    // The receiver waits for it.
    let _ = report.send(joined);
    let Some((rank, size)) = world else { return };
    let world = World { functions, rank, size, buffer: RefCell::default() };
    for work in work {
        work(&world);
    }
    world.functions.finalize();
}

impl World {
    /// See [`Communicator::all_gather`]. Bytes are sent as numbers of 4 bytes. Every process first sends the length and the
    /// first bytes, which for most messages are all.
    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        const FIRST: usize = 60;
        let length = u32::try_from(mine.len()).map_err(|_| Error::TooLong(mine.len()))?;
        let (begin, rest) = mine.split_at(mine.len().min(FIRST));
        let mut head = length.to_ne_bytes().to_vec();
        head.extend(begin);
        head.resize(4 + FIRST, 0);
        let words = (4 + FIRST) / 4;
        let mut heads = vec![0.0; self.size * words];
        self.functions.all_gather(&to_words(&head), &Counts::new(vec![words; self.size])?, &mut heads)?;
        let heads: Vec<Vec<u8>> = heads.chunks(words).map(to_bytes).collect();
        let lengths: Vec<usize> =
            heads.iter().map(|head| u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize).collect();
        let rests = || lengths.iter().map(|length| length.saturating_sub(FIRST));
        let counts = Counts::new(rests().map(|rest| rest.div_ceil(4)))?;
        let mut received = vec![0.0; counts.total()];
        if !received.is_empty() {
            self.functions.all_gather(&to_words(rest), &counts, &mut received)?;
        }
        let mut received = &received[..];
        let parts = heads.iter().zip(&lengths).map(|(head, &length)| {
            let (words, after) = received.split_at(length.saturating_sub(FIRST).div_ceil(4));
            received = after;
            let mut bytes = head[4..4 + length.min(FIRST)].to_vec();
            bytes.extend(to_bytes(words));
            bytes.truncate(length);
            bytes
        });
        Ok(parts.collect())
    }

    /// Sums over the tree. Each rank adds up one part of the values: it receives that part of the sums of all subtrees,
    /// adds them in the order of the tree, and sends the result to all.
    fn sum(&self, leaves: usize, mut subtrees: Vec<Vec<f32>>) -> Result<Vec<f32>, Error> {
        let Self { functions, rank, size, buffer } = self;
        let length = subtrees.first().map_or(0, Vec::len);
        let part = |rank| tree::share(length, rank, *size);
        let (parts, mine) = (Counts::new((0..*size).map(|rank| part(rank).len()))?, part(*rank).len());
        let nodes: Vec<_> = (0..*size).map(|rank| tree::subtrees(leaves, &tree::share(leaves, rank, *size))).collect();
        let all: usize = nodes.iter().map(Vec::len).sum();
        // Fresh memory would cost more than the sum.
        let mut buffer = buffer.borrow_mut();
        let room = buffer.len().max((all + 1) * mine);
        buffer.resize(room, 0.0);
        let (sum, mut rest) = buffer.split_at_mut(mine);
        let mut known = Vec::with_capacity(all);
        for round in 0..nodes.iter().map(Vec::len).max().unwrap_or(0) {
            // Only the processes that have so many subtrees send.
            let senders: Vec<_> = nodes.iter().map(|nodes| nodes.get(round)).collect();
            let from = Counts::new(senders.iter().map(|node| if node.is_some() { mine } else { 0 }))?;
            let (received, after) = rest.split_at_mut(from.total());
            rest = after;
            match subtrees.get(round) {
                Some(values) => functions.all_to_all(values, &parts, received, &from)?,
                None => functions.all_to_all(&[], &Counts::new(vec![0; *size])?, received, &from)?,
            }
            known.extend(senders.into_iter().flatten().cloned().zip(received.chunks(mine.max(1))));
        }
        if mine > 0 {
            tree::sum(leaves, &known, sum);
        }
        let mut result = subtrees.swap_remove(0);
        // MPI_Iallgatherv would do the same, but Open MPI's takes twice the time.
        functions.all_to_all(sum, &Counts::same(mine, *size)?, &mut result, &parts)?;
        Ok(result)
    }
}

/// Returns bytes as numbers of 4 bytes, with zeros at the end.
fn to_words(bytes: &[u8]) -> Vec<f32> {
    let word = |bytes: &[u8]| {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        f32::from_ne_bytes(word)
    };
    bytes.chunks(4).map(word).collect()
}

fn to_bytes(words: &[f32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
