//! Commands to a run from other threads: a signal handler, a web page, a library's user.

use std::sync::mpsc::Receiver;

use serde::{Deserialize, Serialize};

/// A command to a run. Commands are read after each step; [`Command::Stop`] also cancels a validation or sampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Save a checkpoint and end the run. A step that has not begun its last pass is given up.
    Stop,
    /// Save a checkpoint.
    Save,
    /// Draw a sample grid.
    Sample,
}

/// The commands that a run has received.
#[derive(Default)]
pub(crate) struct Commands {
    receiver: Option<Receiver<Command>>,
    stop: bool,
    save: bool,
    sample: bool,
}

impl Commands {
    pub fn new(receiver: Option<Receiver<Command>>) -> Self {
        Self { receiver, ..Self::default() }
    }

    /// Returns whether [`Command::Stop`] was received by now.
    pub fn is_stopping(&mut self) -> bool {
        let received: Vec<Command> = self.receiver.iter().flat_map(Receiver::try_iter).collect();
        for command in received {
            match command {
                Command::Stop => self.stop = true,
                Command::Save => self.save = true,
                Command::Sample => self.sample = true,
            }
        }
        self.stop
    }

    /// Returns the commands since the last call, but [`Command::Stop`].
    pub fn take(&mut self) -> Vec<Command> {
        self.is_stopping();
        let (save, sample) = (std::mem::take(&mut self.save), std::mem::take(&mut self.sample));
        let requests = [(save, Command::Save), (sample, Command::Sample)];
        requests.into_iter().filter(|(requested, _)| *requested).map(|(_, command)| command).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_kept_until_they_are_taken() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut commands = Commands::new(Some(receiver));
        assert!(!commands.is_stopping());
        for command in [Command::Sample, Command::Save, Command::Sample] {
            sender.send(command).unwrap();
        }
        assert!(!commands.is_stopping());
        assert_eq!(commands.take(), [Command::Save, Command::Sample]);
        assert_eq!(commands.take(), []);
        sender.send(Command::Stop).unwrap();
        drop(sender);
        assert!(commands.is_stopping() && commands.is_stopping());
        assert_eq!(commands.take(), []);
        assert!(!Commands::new(None).is_stopping());
    }
}
