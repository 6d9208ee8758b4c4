//! The queue of jobs. One is done at a time; all are listed, followed and cancelled from any thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::http::StatusCode;
use ddpm::Images;
use ddpm::train::Command;
use serde::Serialize;
use tokio::sync::watch;

use crate::api::Failure;
use crate::picture::Pixels;
use crate::requests::{ImageRef, JobRequest};

/// Jobs that may wait.
const MOST_WAITING: usize = 32;
/// Jobs that are remembered.
const MOST_JOBS: usize = 100;
/// The bytes of pictures and images of finished jobs; the oldest are forgotten first.
const MOST_BYTES: usize = 256 << 20;

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits for those before it.
    Waiting,
    /// It is being done.
    Running,
    /// It has a result.
    Done,
    /// It has an error.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// The images during sampling, after a step.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The timestep of the step.
    pub timestep: f64,
    /// x_t.
    pub x: Pixels,
    /// x̂0.
    pub sample: Pixels,
}

/// A job.
struct Job {
    request: JobRequest,
    status: Status,
    done: usize,
    total: usize,
    started: Option<Instant>,
    seconds: f64,
    message: Option<String>,
    error: Option<String>,
    frames: Vec<Frame>,
    images: Option<Images>,
    /// The images that the request names, but for those of data.
    sources: Vec<(ImageRef, Pixels)>,
    /// Numbers beside the images, such as errors of reconstructions.
    facts: BTreeMap<String, Vec<f64>>,
    /// The name of the class of each image, where they have classes.
    classes: Vec<String>,
    cancelled: Arc<AtomicBool>,
    commands: Option<Sender<Command>>,
    /// The number of changes, which followers wait for.
    changes: watch::Sender<u64>,
}

/// A job for the page.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    id: u64,
    status: Status,
    pub request: JobRequest,
    command: String,
    done: usize,
    total: usize,
    seconds: f64,
    message: Option<String>,
    error: Option<String>,
    /// The timesteps of the frames.
    frames: Vec<f64>,
    /// N, H, W, C of the result.
    shape: Option<[usize; 4]>,
    /// The columns of its grid.
    columns: Option<usize>,
    /// The name of the class of each image, where they have classes.
    classes: Vec<String>,
    facts: BTreeMap<String, Vec<f64>>,
}

impl Snapshot {
    /// Returns the model of the job, if it has one.
    pub fn model(&self) -> Option<&str> {
        match &self.request {
            JobRequest::Generate(request) => Some(&request.model),
            JobRequest::Inpaint(request) => Some(&request.model),
            JobRequest::Interpolate(request) => Some(&request.model),
            JobRequest::Invert(request) => Some(&request.model),
            JobRequest::Bound(request) => Some(&request.model),
            JobRequest::Train(_) => None,
        }
    }
}

#[derive(Default)]
struct Jobs {
    all: BTreeMap<u64, Job>,
    last: u64,
    /// Whether no more jobs are done.
    ended: bool,
}

/// The queue.
#[derive(Clone)]
pub struct Queue(Arc<(Mutex<Jobs>, Condvar)>);

/// A job that is being done.
pub struct Task {
    pub id: u64,
    pub request: JobRequest,
    cancelled: Arc<AtomicBool>,
    queue: Queue,
}

impl Job {
    fn bytes(&self) -> usize {
        let frames: usize = self.frames.iter().map(|frame| frame.x.bytes.len() + frame.sample.bytes.len()).sum();
        let sources: usize = self.sources.iter().map(|(_, pixels)| pixels.bytes.len()).sum();
        frames + sources + self.images.as_ref().map_or(0, |images| 4 * images.pixels.len())
    }

    fn is_finished(&self) -> bool {
        !matches!(self.status, Status::Waiting | Status::Running)
    }

    fn snapshot(&self, id: u64) -> Snapshot {
        let shape = self.images.as_ref().map(Images::shape);
        Snapshot {
            id,
            status: self.status,
            request: self.request.clone(),
            command: self.request.command(),
            done: self.done,
            total: self.total,
            seconds: if self.is_finished() {
                self.seconds
            } else {
                self.started.map_or(0.0, |at| at.elapsed().as_secs_f64())
            },
            message: self.message.clone(),
            error: self.error.clone(),
            frames: self.frames.iter().map(|frame| frame.timestep).collect(),
            shape: shape.or_else(|| Some(self.frames.last()?.x.shape)),
            columns: shape.map(|[n, ..]| crate::picture::columns(n)),
            classes: self.classes.clone(),
            facts: self.facts.clone(),
        }
    }
}

impl Queue {
    /// An empty queue.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job and returns its number.
    ///
    /// # Errors
    /// If too many wait already.
    pub fn add(&self, request: JobRequest) -> Result<u64, Failure> {
        let mut jobs = self.lock();
        if jobs.all.values().filter(|job| job.status == Status::Waiting).count() >= MOST_WAITING {
            let message = format!("{MOST_WAITING} jobs wait already; cancel one, or wait for one to end");
            return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, message));
        }
        let run = |request: &JobRequest| match request {
            JobRequest::Train(request) => Some(request.run.clone()),
            _ => None,
        };
        let same = |job: &&Job| !job.is_finished() && run(&job.request).is_some() && run(&job.request) == run(&request);
        if let Some(run) = jobs.all.values().find(same).and_then(|job| run(&job.request)) {
            return Err(Failure::new(
                StatusCode::CONFLICT,
                format!("{run} is being trained, or waits for that, already"),
            ));
        }
        jobs.last += 1;
        let job = Job {
            request,
            status: Status::Waiting,
            done: 0,
            total: 0,
            started: None,
            seconds: 0.0,
            message: None,
            error: None,
            frames: Vec::new(),
            images: None,
            sources: Vec::new(),
            facts: BTreeMap::new(),
            classes: Vec::new(),
            cancelled: Arc::default(),
            commands: None,
            changes: watch::Sender::new(0),
        };
        let id = jobs.last;
        jobs.all.insert(id, job);
        jobs.forget();
        self.0.1.notify_all();
        Ok(id)
    }

    /// Waits for the next job, which is then running. `None` if the queue has ended.
    pub fn next(&self) -> Option<Task> {
        let mut jobs = self.lock();
        loop {
            if jobs.ended {
                return None;
            }
            if let Some((&id, job)) = jobs.all.iter_mut().find(|(_, job)| job.status == Status::Waiting) {
                (job.status, job.started) = (Status::Running, Some(Instant::now()));
                job.changes.send_modify(|changes| *changes += 1);
                let (request, cancelled) = (job.request.clone(), job.cancelled.clone());
                return Some(Task { id, request, cancelled, queue: self.clone() });
            }
            jobs = self.0.1.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Cancels all jobs and ends the queue. A training run saves a checkpoint first.
    pub fn end(&self) {
        let mut jobs = self.lock();
        jobs.ended = true;
        for job in jobs.all.values_mut().filter(|job| !job.is_finished()) {
            job.cancelled.store(true, Ordering::Relaxed);
            let _ = job.commands.as_ref().map(|commands| commands.send(Command::Stop));
        }
        self.0.1.notify_all();
    }

    /// Returns all jobs, the newest first.
    pub fn list(&self) -> Vec<Snapshot> {
        self.lock().all.iter().rev().map(|(&id, job)| job.snapshot(id)).collect()
    }

    /// Returns a job.
    ///
    /// # Errors
    /// If there is none of this number.
    pub fn get(&self, id: u64) -> Result<Snapshot, Failure> {
        self.with(id, |job| job.snapshot(id))
    }

    /// Returns what tells of the changes of a job.
    ///
    /// # Errors
    /// As [`Queue::get`].
    pub fn changes(&self, id: u64) -> Result<watch::Receiver<u64>, Failure> {
        self.with(id, |job| job.changes.subscribe())
    }

    /// Returns images of a finished job.
    ///
    /// # Errors
    /// If there are none.
    pub fn images(&self, id: u64) -> Result<Images, Failure> {
        let images = self.with(id, |job| job.images.clone())?;
        images.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("job {id} has no images, or no longer")))
    }

    /// Returns the images that the request of a job names, but for those of data.
    ///
    /// # Errors
    /// As [`Queue::get`].
    pub fn sources(&self, id: u64) -> Result<Vec<(ImageRef, Pixels)>, Failure> {
        self.with(id, |job| job.sources.clone())
    }

    /// Returns a frame of a job.
    ///
    /// # Errors
    /// If there is none of this number.
    pub fn frame(&self, id: u64, number: usize) -> Result<Frame, Failure> {
        let frame = self.with(id, |job| job.frames.get(number).cloned())?;
        frame
            .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("job {id} has no frame {number}, or no longer")))
    }

    /// Cancels a job. One that waits is cancelled at once, one that is running after its step.
    ///
    /// # Errors
    /// As [`Queue::get`].
    pub fn cancel(&self, id: u64) -> Result<(), Failure> {
        self.with(id, |job| {
            job.cancelled.store(true, Ordering::Relaxed);
            // The run may have ended by itself.
            let _ = job.commands.as_ref().map(|commands| commands.send(Command::Stop));
            if job.status == Status::Waiting {
                job.status = Status::Cancelled;
            }
            job.changes.send_modify(|changes| *changes += 1);
        })
    }

    /// Sends a command to a training run.
    ///
    /// # Errors
    /// If the job is no training run that is at work.
    pub fn command(&self, id: u64, command: Command) -> Result<(), Failure> {
        let sent =
            self.with(id, |job| job.commands.as_ref().filter(|_| !job.is_finished()).map(|to| to.send(command)))?;
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(Failure::new(StatusCode::CONFLICT, format!("job {id} is not training"))),
        }
    }

    fn with<T>(&self, id: u64, look: impl FnOnce(&mut Job) -> T) -> Result<T, Failure> {
        let mut jobs = self.lock();
        let job = jobs.all.get_mut(&id);
        job.map(look).ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("there is no job {id}, or no longer")))
    }
}

impl Jobs {
    /// Forgets pictures of old jobs, then old jobs.
    fn forget(&mut self) {
        let mut bytes: usize = self.all.values().map(Job::bytes).sum();
        let newest = self.last;
        for (_, job) in self.all.iter_mut().filter(|(id, job)| **id != newest && job.is_finished()) {
            if bytes <= MOST_BYTES {
                break;
            }
            bytes -= job.bytes();
            (job.frames, job.images, job.sources) = (Vec::new(), None, Vec::new());
        }
        while self.all.len() > MOST_JOBS {
            let Some(id) = self.all.iter().find(|(_, job)| job.is_finished()).map(|(id, _)| *id) else { break };
            self.all.remove(&id);
        }
    }
}

/// The result of a job.
#[derive(Default)]
pub struct Outcome {
    pub images: Option<Images>,
    pub facts: BTreeMap<String, Vec<f64>>,
    pub classes: Vec<String>,
    pub message: Option<String>,
}

impl Task {
    /// Returns whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Reports progress, and returns whether to go on.
    pub fn progress(&self, done: usize, total: usize) -> bool {
        self.change(|job| (job.done, job.total) = (done, total));
        !self.is_cancelled()
    }

    /// Adds a frame.
    pub fn frame(&self, frame: Frame) {
        self.change(|job| job.frames.push(frame));
    }

    /// Keeps an image that the request names.
    pub fn keep_source(&self, image: ImageRef, pixels: Pixels) {
        self.change(|job| job.sources.push((image, pixels)));
    }

    /// Says what is being done.
    pub fn say(&self, message: String) {
        self.change(|job| job.message = Some(message));
    }

    /// Sets where commands to the run go.
    pub fn take_commands(&self, commands: Sender<Command>) {
        self.change(|job| job.commands = Some(commands));
    }

    /// Ends the job.
    pub fn finish(self, outcome: Result<Outcome, String>) {
        let cancelled = self.is_cancelled();
        self.change(|job| {
            job.seconds = job.started.map_or(0.0, |at| at.elapsed().as_secs_f64());
            job.commands = None;
            match outcome {
                Ok(Outcome { images, facts, classes, message }) => {
                    // A training that was stopped has saved what it did.
                    job.status = Status::Done;
                    (job.images, job.facts, job.classes) = (images, facts, classes);
                    job.message = message.or(job.message.take());
                }
                Err(_) if cancelled => job.status = Status::Cancelled,
                Err(error) => (job.status, job.error) = (Status::Failed, Some(error)),
            }
        });
        self.queue.lock().forget();
    }

    fn change(&self, change: impl FnOnce(&mut Job)) {
        // A job that is running is not forgotten.
        let _ = self.queue.with(self.id, |job| {
            change(job);
            job.changes.send_modify(|changes| *changes += 1);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::Generate;

    fn request() -> JobRequest {
        JobRequest::Generate(Generate { model: "fashion".into(), n: 1, ..Generate::default() })
    }

    #[test]
    fn jobs_are_done_in_order_and_can_be_cancelled() {
        let queue = Queue::new();
        let ids: Vec<u64> = (0..3).map(|_| queue.add(request()).unwrap()).collect();
        queue.cancel(ids[1]).unwrap();
        let first = queue.next().unwrap();
        assert_eq!(first.id, ids[0]);
        assert!(first.progress(1, 4));
        let snapshot = queue.get(ids[0]).unwrap();
        assert_eq!((snapshot.status, snapshot.done, snapshot.total), (Status::Running, 1, 4));
        queue.cancel(ids[0]).unwrap();
        assert!(!first.progress(2, 4));
        first.finish(Err("stopped".into()));
        let third = queue.next().unwrap();
        assert_eq!(third.id, ids[2]);
        let images = Images::new([1, 2, 2, 1], vec![0.0; 4]);
        third.finish(Ok(Outcome { images: Some(images), ..Outcome::default() }));
        let statuses: Vec<Status> = queue.list().iter().map(|job| job.status).collect();
        assert_eq!(statuses, [Status::Done, Status::Cancelled, Status::Cancelled]);
        assert_eq!(queue.images(ids[2]).unwrap().shape(), [1, 2, 2, 1]);
        assert!(queue.images(ids[0]).is_err() && queue.get(99).is_err() && queue.frame(ids[2], 0).is_err());
        assert!(queue.command(ids[2], Command::Save).is_err());
    }

    #[test]
    fn the_queue_and_its_memory_are_bounded() {
        let queue = Queue::new();
        for _ in 0..MOST_WAITING {
            queue.add(request()).unwrap();
        }
        assert_eq!(queue.add(request()).unwrap_err().status, StatusCode::TOO_MANY_REQUESTS);
        // Each result has a third of the memory.
        let pixels = MOST_BYTES / 12;
        let ids: Vec<u64> = (0..5)
            .map(|_| {
                let task = queue.next().unwrap();
                let id = task.id;
                let images = Images::new([1, pixels, 1, 1], vec![0.0; pixels]);
                task.finish(Ok(Outcome { images: Some(images), ..Outcome::default() }));
                id
            })
            .collect();
        let kept: Vec<bool> = ids.iter().map(|id| queue.images(*id).is_ok()).collect();
        assert_eq!(kept, [false, false, true, true, true]);
        for _ in 0..2 * MOST_JOBS {
            let _ = queue.add(request());
            queue.next().unwrap().finish(Ok(Outcome::default()));
        }
        assert!(queue.list().len() <= MOST_JOBS);
        queue.end();
        assert!(queue.next().is_none());
    }
}
