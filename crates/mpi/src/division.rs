//! The division of independent items between processes: of a job that runs now, or of several that run at any time.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::shard::{Recording, Shards};
use crate::{Communicator, Error, SingleProcess};

/// The way in which the items of a long computation are divided. The results do not depend on it, since each item is
/// computed as in a single process, and results are used in the order of the items.
///
/// ```
/// use mpi::{Division, Error};
///
/// let mut sum = 0;
/// let square = |item: usize| Ok::<_, Error>(Some(item * item));
/// let finished = Division::default().run(|| "squares".into(), 4, square, |_, square: usize| {
///     sum += square;
///     Ok(true)
/// })?;
/// assert!(finished && sum == 14);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct Division {
    kind: Kind,
    /// The model and images that are worked on: part of the keys of results.
    subject: String,
    /// Whether the processes are known to do the same work.
    is_checked: bool,
}

#[derive(Clone)]
enum Kind {
    /// The processes of a job compute items in turn, and all get all results.
    Processes(Arc<dyn Communicator>),
    /// This process computes its share, which is kept in a file.
    Record(Arc<Recording>),
    /// The items are read from the files of all shards.
    Replay(Arc<Shards>),
}

/// Some of the items of a computation.
#[derive(Clone, Copy, Debug)]
pub struct Items<'a> {
    /// The number of all items.
    pub count: usize,
    /// The items that are to be computed, ascending. All processes must name the same.
    pub due: &'a [usize],
}

/// The result of a process in a round.
#[derive(Serialize, Deserialize)]
enum Message<T> {
    Item(T),
    /// There was no item left.
    Nothing,
    /// The computation is to be stopped.
    Stop,
    Failed(String),
}

impl Default for Division {
    /// A single process.
    fn default() -> Self {
        Kind::Processes(Arc::new(SingleProcess)).into()
    }
}

impl std::fmt::Debug for Division {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.kind {
            Kind::Processes(_) => "Processes",
            Kind::Record(_) => "Record",
            Kind::Replay(_) => "Replay",
        })
    }
}

impl From<Arc<dyn Communicator>> for Division {
    fn from(communicator: Arc<dyn Communicator>) -> Self {
        Kind::Processes(communicator).into()
    }
}

impl From<Recording> for Division {
    fn from(recording: Recording) -> Self {
        Kind::Record(Arc::new(recording)).into()
    }
}

impl From<Shards> for Division {
    fn from(shards: Shards) -> Self {
        Kind::Replay(Arc::new(shards)).into()
    }
}

impl From<Kind> for Division {
    fn from(kind: Kind) -> Self {
        Self { kind, subject: String::new(), is_checked: false }
    }
}

impl Division {
    /// Says what is worked on, such as digests of the model and the images, which must be the same in all processes and
    /// shards. A single process does not compute it.
    pub fn about(&self, subject: impl FnOnce() -> String) -> Self {
        match &self.kind {
            Kind::Processes(communicator) if communicator.size() == 1 || self.is_checked => self.clone(),
            kind => Self { kind: kind.clone(), subject: subject(), is_checked: self.is_checked },
        }
    }

    /// Declares that the processes do the same work, so that their models and images need not be compared again.
    pub fn checked(self) -> Self {
        Self { is_checked: true, ..self }
    }

    /// Returns whether this process writes the results and shows progress.
    pub fn is_root(&self) -> bool {
        match &self.kind {
            Kind::Processes(communicator) => communicator.is_root(),
            Kind::Record(_) | Kind::Replay(_) => true,
        }
    }

    /// Returns the value of process 0.
    ///
    /// # Errors
    /// If a process cannot be reached.
    pub fn of_root<T: Serialize + DeserializeOwned>(&self, value: T) -> Result<T, Error> {
        match &self.kind {
            Kind::Processes(communicator) if communicator.size() > 1 => {
                let bytes = postcard::to_allocvec(&value).map_err(|error| Error::Encoding(error.to_string()))?;
                let bytes = communicator.broadcast(bytes)?;
                postcard::from_bytes(&bytes).map_err(|error| Error::Encoding(error.to_string()))
            }
            _ => Ok(value),
        }
    }

    /// Returns the progress at the beginning of an item: the units of work that are done, and of how many. An item has `size`
    /// units, and all `count` items together `total`. A shard counts its own items only.
    pub fn progress(&self, item: usize, count: usize, (size, total): (usize, usize)) -> (usize, usize) {
        match &self.kind {
            Kind::Processes(_) | Kind::Replay(_) => (item * size, total),
            Kind::Record(recording) => {
                let share = recording.share(count);
                (item.saturating_sub(share.start) * size, if share.len() == count { total } else { share.len() * size })
            }
        }
    }

    /// Returns whether results are only recorded, for a later merge.
    pub fn is_recorded(&self) -> bool {
        matches!(self.kind, Kind::Record(_))
    }

    /// Computes the items 0 to `count` − 1, divided between the processes, and calls `each` with every result in order.
    /// `key` says what is computed: results that are read from files must have the same.
    ///
    /// `compute` returns `None`, and `each` returns `false`, to stop. Returns whether all items were computed.
    ///
    /// # Errors
    /// Those of the two functions, in any process; [`Error::Recorded`] if the results are in the file of a shard now.
    pub fn run<T, E>(
        &self,
        key: impl Fn() -> String,
        count: usize,
        compute: impl FnMut(usize) -> Result<Option<T>, E>,
        each: impl FnMut(usize, T) -> Result<bool, E>,
    ) -> Result<bool, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error> + std::fmt::Display,
    {
        self.run_some(key, Items { count, due: &(0..count).collect::<Vec<_>>() }, compute, each)
    }

    /// Computes some of the items, as [`Division::run`] does all of them.
    ///
    /// # Errors
    /// As [`Division::run`].
    pub fn run_some<T, E>(
        &self,
        key: impl Fn() -> String,
        Items { count, due: items }: Items,
        mut compute: impl FnMut(usize) -> Result<Option<T>, E>,
        mut each: impl FnMut(usize, T) -> Result<bool, E>,
    ) -> Result<bool, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error> + std::fmt::Display,
    {
        match &self.kind {
            Kind::Processes(communicator) if communicator.size() == 1 => {
                for &item in items {
                    let Some(result) = compute(item)? else { return Ok(false) };
                    if !each(item, result)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Kind::Processes(communicator) => {
                if !self.is_checked {
                    same_work(&**communicator, &self.key(key()), count, items)?;
                }
                rounds(&**communicator, items, compute, each)
            }
            Kind::Record(recording) => {
                let share = recording.share(count);
                let mut section = recording.section(&self.key(key()), count)?;
                for &item in items.iter().filter(|item| share.contains(item)) {
                    if !section.has(item) {
                        let Some(result) = compute(item)? else { return Ok(false) };
                        section.write(item, &encoded(&result)?)?;
                    }
                }
                Err(section.finish()?.into())
            }
            Kind::Replay(shards) => {
                let key = self.key(key());
                for &item in items {
                    let bytes = shards.read(&key, count, item)?;
                    if !each(item, decoded(&bytes)?)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

impl Division {
    /// Returns a short text that is the same for the same computation on the same subject.
    fn key(&self, computation: String) -> String {
        let name = computation.split(' ').next().unwrap_or_default();
        format!(
            "{name} {:08x} {:08x}",
            crc32fast::hash(computation.as_bytes()),
            crc32fast::hash(self.subject.as_bytes())
        )
    }
}

/// Checks that all processes compute the same items of the same computation.
fn same_work(communicator: &dyn Communicator, key: &str, count: usize, items: &[usize]) -> Result<(), Error> {
    let all = communicator.all_gather_values(&(key.to_owned(), count, items.len(), items.last().copied()))?;
    match all.iter().position(|other| *other != all[0]) {
        Some(rank) => Err(Error::OtherWork { rank }),
        None => Ok(()),
    }
}

/// Computes one item in each process, gives all processes the results, and repeats.
fn rounds<T, E>(
    communicator: &dyn Communicator,
    items: &[usize],
    mut compute: impl FnMut(usize) -> Result<Option<T>, E>,
    mut each: impl FnMut(usize, T) -> Result<bool, E>,
) -> Result<bool, E>
where
    T: Serialize + DeserializeOwned,
    E: From<Error> + std::fmt::Display,
{
    let (rank, size) = (communicator.rank(), communicator.size());
    let mut stopping = false;
    for items in items.chunks(size) {
        let mut failure = None;
        let mine = match items.get(rank) {
            _ if stopping => Message::Stop,
            None => Message::Nothing,
            Some(&item) => match compute(item) {
                Ok(Some(result)) => Message::Item(result),
                Ok(None) => Message::Stop,
                Err(error) => {
                    let message = error.to_string();
                    failure = Some(error);
                    Message::Failed(message)
                }
            },
        };
        let all = communicator.all_gather(&encoded(&mine)?)?;
        if let Some(error) = failure {
            return Err(error);
        }
        let mut results = Vec::new();
        for (rank, bytes) in all.iter().enumerate() {
            match decoded(bytes)? {
                Message::Item(result) => results.push(result),
                Message::Nothing => {}
                Message::Stop => stopping = true,
                Message::Failed(message) => return Err(Error::OtherRank { rank, message }.into()),
            }
        }
        if stopping {
            return Ok(false);
        }
        for (&item, result) in items.iter().zip(results) {
            // The others learn of it in the next round. An error is that of all, since all have the same results.
            stopping |= !each(item, result)?;
        }
    }
    Ok(true)
}

fn encoded<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    postcard::to_allocvec(value).map_err(|error| Error::Encoding(error.to_string()))
}

fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    postcard::from_bytes(bytes).map_err(|error| Error::Encoding(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;

    /// Numbers whose sum depends on the order.
    fn number(item: usize) -> f64 {
        (item as f64 * 0.7).sin() * 10f64.powi((item % 9) as i32)
    }

    fn sum(division: &Division, count: usize) -> Result<f64, Error> {
        let mut sum = 0.0;
        division.run(
            || "sum".into(),
            count,
            |item| Ok(Some(number(item))),
            |_, number| {
                sum += number;
                Ok::<_, Error>(true)
            },
        )?;
        Ok(sum)
    }

    #[test]
    fn all_processes_get_all_results_in_order() {
        for count in [0, 1, 5, 12] {
            let expected = sum(&Division::default(), count).unwrap();
            for size in 1..6 {
                let found = Threads::run(size, |threads| {
                    sum(&(Arc::new(threads) as Arc<dyn Communicator>).into(), count).unwrap()
                });
                assert!(found.iter().all(|found| found.to_bits() == expected.to_bits()), "{count} on {size}");
            }
        }
    }

    #[test]
    fn one_process_that_stops_or_fails_ends_all() {
        let run = |stops: usize, fails: usize, breaks: usize| {
            Threads::run(3, |threads| {
                let rank = threads.rank();
                let division = Division::from(Arc::new(threads) as Arc<dyn Communicator>);
                let compute = |item: usize| match item {
                    item if item == fails => Err(Error::Encoding("item 4".into())),
                    item => Ok((item != stops).then_some(item)),
                };
                division.run(String::new, 12, compute, |item, _| Ok(!(rank == 1 && item == breaks)))
            })
        };
        assert!(run(99, 99, 99).iter().all(|result| matches!(result, Ok(true))));
        assert!(run(7, 99, 99).iter().all(|result| matches!(result, Ok(false))));
        assert!(run(99, 99, 3).iter().all(|result| matches!(result, Ok(false))));
        let failed = run(99, 4, 99);
        assert!(failed[1].as_ref().unwrap_err().to_string().contains("item 4"));
        assert_eq!(failed[0].as_ref().unwrap_err().to_string(), failed[2].as_ref().unwrap_err().to_string());
        assert!(failed[0].as_ref().unwrap_err().to_string().starts_with("rank 1: "));
    }

    #[test]
    fn shards_give_the_results_of_one_process() {
        let place = tempfile::tempdir().unwrap();
        let path = |shard: usize| place.path().join(format!("{shard}.shard"));
        let count = 11;
        let shard = |index: usize, of: usize, command: &str| crate::Shard {
            command: command.into(),
            machine: "AVX".into(),
            index,
            of,
        };
        let record = |index: usize, command: &str| -> Result<usize, Error> {
            let recording = Recording::new(&path(index), shard(index, 3, command));
            match sum(&recording.into(), count) {
                Err(Error::Recorded { items, .. }) => Ok(items),
                Ok(_) => panic!("not recorded"),
                Err(error) => Err(error),
            }
        };
        let items: Vec<usize> = (0..3).map(|shard| record(shard, "{}").unwrap()).collect();
        assert_eq!(items, [3, 4, 4]);
        let all = || Shards::open(&[path(2), path(0), path(1)]);
        let merged: Division = all().unwrap().into();
        assert_eq!(sum(&merged, count).unwrap().to_bits(), sum(&Division::default(), count).unwrap().to_bits());
        // Another number of items is another computation.
        assert!(sum(&merged, count + 1).unwrap_err().to_string().contains("of another"));
        let error = Shards::open(&[path(0), path(2)]).err().unwrap().to_string();
        assert!(error.contains("shard 2 of 3 is missing"), "{error}");
        let error = Shards::open(&[path(0), path(0), path(1), path(2)]).err().unwrap().to_string();
        assert!(error.contains("second file of shard 1 of 3"), "{error}");
        // A shard that was killed continues: its file may end in the middle of an item.
        let bytes = std::fs::read(path(1)).unwrap();
        for end in [bytes.len() - 3, bytes.len() - 30, bytes.len() / 2] {
            std::fs::write(path(1), &bytes[..end]).unwrap();
            let merged: Division = all().unwrap().into();
            let error = sum(&merged, count).unwrap_err().to_string();
            assert!(error.contains("is not finished"), "{error}");
            record(1, "{}").unwrap();
            assert_eq!(std::fs::read(path(1)).unwrap(), bytes);
        }
        assert!(record(1, "{\"other\":1}").unwrap_err().to_string().contains("another command"));
        let other = Recording::new(&path(4), shard(0, 3, "{\"other\":1}"));
        assert!(sum(&other.into(), count).is_err());
        let error = Shards::open(&[path(4), path(1), path(2)]).err().unwrap().to_string();
        assert!(error.contains("another command"), "{error}");
        // Another instruction set rounds differently.
        let other = Recording::new(&path(5), crate::Shard { machine: "SSE".into(), ..shard(2, 3, "{}") });
        assert!(sum(&other.into(), count).is_err());
        let error = Shards::open(&[path(0), path(1), path(5)]).err().unwrap().to_string();
        assert!(error.contains("was computed with SSE"), "{error}");
        // A file of another kind stays as it is, and a shard has one process.
        std::fs::write(path(6), "notes").unwrap();
        let foreign = Recording::new(&path(6), shard(0, 3, "{}"));
        assert!(sum(&foreign.into(), count).unwrap_err().to_string().contains("is not the file of a shard"));
        assert_eq!(std::fs::read(path(6)).unwrap(), b"notes");
        let first = Recording::new(&path(0), shard(0, 3, "{}"));
        first.section("x", 1).unwrap();
        assert!(record(0, "{}").unwrap_err().to_string().contains("another process computes this shard"));
    }

    #[test]
    fn processes_with_other_models_are_refused() {
        let found = Threads::run(3, |threads| {
            let rank = threads.rank();
            let division = Division::from(Arc::new(threads) as Arc<dyn Communicator>);
            sum(&division.about(|| format!("model {}", rank / 2)), 9).unwrap_err().to_string()
        });
        assert!(found.iter().all(|error| error.contains("rank 2 has another model")), "{found:?}");
    }

    /// Damaged files are errors, and no claim of them is believed.
    #[test]
    fn damaged_shards_are_errors() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("0.shard");
        let shard = crate::Shard { command: "{}".into(), machine: String::new(), index: 0, of: 1 };
        let recording = Recording::new(&path, shard);
        assert!(sum(&recording.into(), 5).is_err());
        let bytes = std::fs::read(&path).unwrap();
        let expected = sum(&Division::default(), 5).unwrap();
        for at in 0..bytes.len() {
            for bit in [0x01, 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] ^= bit;
                std::fs::write(&path, damaged).unwrap();
                if let Ok(shards) = Shards::open(std::slice::from_ref(&path)) {
                    // Nothing else is ever returned.
                    let found = sum(&shards.into(), 5);
                    assert!(found.is_err() || found.unwrap().to_bits() == expected.to_bits(), "byte {at}");
                }
            }
        }
    }
}
