//! Observers: everything that watches a run.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use data::ImageSet;
use model::Pipeline;
use mpi::{Communicator, Division};

use crate::Error;
use crate::command::Command;
use crate::config::TrainingConfig;
use crate::event::Event;
use crate::metrics::SelectionMetric;
use crate::records::LogRecord;
use crate::session::Session;
use crate::trainer::Trainer;

/// Watches a run. A closure `FnMut(&Event)` is an observer too.
pub trait Observer {
    /// Called with each event. Observers are called in the order in which they were added, those of the caller before
    /// those of the run.
    ///
    /// An observer may emit events of its own, which all other observers get before [`Context::emit`] returns.
    ///
    /// # Errors
    /// An error ends the run.
    fn on_event(&mut self, event: &Event, context: &mut Context) -> Result<(), Error>;
}

impl<F: FnMut(&Event)> Observer for F {
    fn on_event(&mut self, event: &Event, _: &mut Context) -> Result<(), Error> {
        self(event);
        Ok(())
    }
}

/// The observers of a run, the channel of its commands, and the processes that divide its work.
#[derive(Default)]
pub struct Hooks<'a> {
    pub(crate) observers: Vec<Box<dyn Observer + 'a>>,
    pub(crate) commands: Option<Receiver<Command>>,
    pub(crate) sets_rate: bool,
    pub(crate) communicator: Option<Arc<dyn Communicator>>,
}

impl<'a> Hooks<'a> {
    /// No observers and no commands.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an observer.
    pub fn observe(mut self, observer: impl Observer + 'a) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Adds a closure that is called with each event.
    pub fn on_event(self, callback: impl FnMut(&Event) + 'a) -> Self {
        self.observe(callback)
    }

    /// Sets the channel of commands.
    pub fn commands(self, commands: Receiver<Command>) -> Self {
        Self { commands: Some(commands), ..self }
    }

    /// Divides the run between processes. Process 0 writes the folder and calls the observers; commands may be received by
    /// any process. A process that returns an error must end the others, which wait for it.
    pub fn communicator(self, communicator: Arc<dyn Communicator>) -> Self {
        Self { communicator: Some(communicator), ..self }
    }

    /// Says that a resumed run has the learning rate of its configuration, even if that has not changed and roll-backs have
    /// halved the rate since.
    pub fn set_learning_rate(self) -> Self {
        Self { sets_rate: true, ..self }
    }
}

/// A run as its observers see it.
pub struct Context<'r, 'o> {
    pub(crate) session: &'r mut Session,
    /// An observer is absent while it is at work.
    observers: &'r mut [Option<Box<dyn Observer + 'o>>],
}

impl<'r, 'o> Context<'r, 'o> {
    pub(crate) fn new(session: &'r mut Session, observers: &'r mut [Option<Box<dyn Observer + 'o>>]) -> Self {
        Self { session, observers }
    }

    /// The network, optimizer and state.
    pub fn trainer(&self) -> &Trainer {
        &self.session.trainer
    }

    /// Returns whether this is process 0, which writes files and shows progress.
    pub fn is_root(&self) -> bool {
        self.trainer().communicator().is_root()
    }

    /// Returns the division of work between the processes of the run.
    pub fn division(&self) -> Division {
        // The configurations and images were compared, and process 0 shares its weights.
        Division::from(self.trainer().shared_communicator()).checked()
    }

    /// The configuration.
    pub fn config(&self) -> &TrainingConfig {
        &self.session.config
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.session.folder
    }

    /// The training images.
    pub fn images(&self) -> &ImageSet {
        &self.session.set
    }

    /// The records of the log.
    pub fn records(&self) -> &[LogRecord] {
        &self.session.records
    }

    /// Returns the model as a checkpoint of this step holds it: the network with averaged parameters.
    pub fn pipeline(&self) -> Pipeline {
        Pipeline {
            network: self.session.trainer.averaged(),
            scheduler: self.session.config.scheduler(),
            preprocessing: self.session.preprocessing.clone(),
            sampling: Some(self.session.config.sampling()),
            root: self.session.folder.clone(),
        }
    }

    /// Returns whether something that is done every `every` steps is due after this step; never if `every` is 0.
    pub fn is_due(&self, every: usize) -> bool {
        every > 0 && self.session.step().is_multiple_of(every as u64)
    }

    /// Returns whether this step is the run's last, as planned or because it was stopped.
    pub fn is_last(&self) -> bool {
        self.session.stopped || self.session.step() == self.session.steps()
    }

    /// Returns whether the run was stopped before this step's observers were called.
    pub fn is_stopped(&self) -> bool {
        self.session.stopped
    }

    /// Returns whether a command asks for something to be done after this step.
    pub fn is_requested(&self, command: Command) -> bool {
        self.session.requests.contains(&command)
    }

    /// Calls the observers with an event, except those that are at work: the caller, and the ones whose events it
    /// handles.
    ///
    /// # Errors
    /// An observer's.
    pub fn emit(&mut self, event: Event) -> Result<(), Error> {
        self.session.note(&event);
        for i in 0..self.observers.len() {
            // It may write there next.
            if let Some(folder) = self.session.follow_folder() {
                self.warn(format!("the run's folder was moved; it goes on in {}", folder.display()))?;
            }
            let Some(mut observer) = self.observers[i].take() else { continue };
            let result = observer.on_event(&event, self);
            self.observers[i] = Some(observer);
            result?;
        }
        self.session.failure.take().map_or(Ok(()), Err)
    }

    /// Emits an event during long work and returns whether to continue with it: `false` after [`Command::Stop`] or an
    /// observer's error, which ends the run once the work has returned.
    pub fn progress(&mut self, event: Event) -> bool {
        if let Err(error) = self.emit(event) {
            self.session.failure = Some(error);
            return false;
        }
        !self.session.commands.is_stopping()
    }

    /// Emits a warning.
    ///
    /// # Errors
    /// An observer's.
    pub fn warn(&mut self, message: impl Into<String>) -> Result<(), Error> {
        self.emit(Event::warning(message))
    }

    /// Compares a validation metric with the best one so far, and keeps it if it is less. Returns whether it is.
    pub fn record_best(&mut self, by: SelectionMetric, value: f64) -> bool {
        let state = self.session.trainer.state_mut();
        // Values of another metric do not compare.
        if state.best_by != by {
            (state.best, state.best_by) = (None, by);
        }
        let best = value.is_finite() && state.best.is_none_or(|(_, least)| value < least);
        if best {
            state.best = Some((state.step, value));
        }
        best
    }
}
