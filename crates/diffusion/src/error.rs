//! The error type of this crate.

/// An error of this crate. The message says what was found and what is expected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A schedule without timesteps.
    #[error("a noise schedule needs at least one timestep")]
    EmptySchedule,
    /// A β outside its range.
    #[error("betas[{t}] is {beta}, expected 0 < beta <= 1 (and < 1 before the last step)")]
    Beta {
        /// Index of the entry.
        t: usize,
        /// The value found there.
        beta: f64,
    },
    /// An ᾱ that does not fall in f64, or that underflows.
    #[error("alphas_cumprod[{t}] is {alpha_cumprod:e}, expected to be below {prev:e} and above 0")]
    AlphaCumprod {
        /// Index of the entry.
        t: usize,
        /// The value found there.
        alpha_cumprod: f64,
        /// The entry before it.
        prev: f64,
    },
    /// A number of sampling steps that the schedule does not have.
    #[error("cannot take {steps} steps out of {num_train_timesteps} training timesteps with {spacing} spacing")]
    Steps {
        /// The requested number of steps.
        steps: usize,
        /// T of the schedule.
        num_train_timesteps: usize,
        /// The timestep spacing.
        spacing: String,
    },
    /// A list of timesteps that is out of range or out of order.
    #[error("timesteps[{index}] is {timestep}, expected strictly descending timesteps below {num_train_timesteps}")]
    Timestep {
        /// Position in the list.
        index: usize,
        /// The value found there.
        timestep: usize,
        /// T of the schedule.
        num_train_timesteps: usize,
    },
    /// An empty list of timesteps.
    #[error("no timesteps given")]
    NoTimesteps,
    /// A text that is not a timestep respacing.
    #[error("cannot read timestep respacing `{0}`, expected `N`, `N,N,...` or `ddimN`")]
    Respacing(String),
    /// An unknown name.
    #[error("unknown {what} `{name}`, expected one of {expected}")]
    Name {
        /// The kind of thing that has names.
        what: &'static str,
        /// The name found.
        name: String,
        /// The known names.
        expected: String,
    },
    /// A number outside its range.
    #[error("{name} is {value}, expected {expected}")]
    Value {
        /// Name of the parameter.
        name: &'static str,
        /// The value found.
        value: f64,
        /// The accepted values.
        expected: &'static str,
    },
    /// A list of the wrong length.
    #[error("{name} has {found} entries, expected {expected}")]
    Length {
        /// Name of the list.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The expected length.
        expected: usize,
    },
    /// A solver table with an invalid row.
    #[error("solver table `{table}`, row {row}: {problem}")]
    Row {
        /// Name of the table.
        table: String,
        /// Index of the row.
        row: usize,
        /// A description of the problem.
        problem: String,
    },
    /// A combination of settings that is not supported.
    #[error("{0}")]
    Unsupported(String),
    /// An invalid or unsupported `scheduler_config.json`.
    #[error("scheduler_config.json: {0}")]
    SchedulerConfig(String),
}
