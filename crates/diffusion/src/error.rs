//! What can be wrong with a schedule, a table or a configuration.

/// An error of this crate. Every variant says what was found and what would have been accepted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A schedule without a single step.
    #[error("a noise schedule needs at least one timestep")]
    EmptySchedule,
    /// A noise level that no diffusion has.
    #[error("betas[{t}] is {beta}, expected 0 < beta <= 1 (and < 1 before the last step)")]
    Beta {
        /// Index of the entry.
        t: usize,
        /// What was found there.
        beta: f64,
    },
    /// A noise level that f64 cannot tell from the one before it, or from nothing.
    #[error("alphas_cumprod[{t}] is {alpha_cumprod:e}, expected to be below {prev:e} and above 0")]
    AlphaCumprod {
        /// Index of the entry.
        t: usize,
        /// What was found there.
        alpha_cumprod: f64,
        /// The entry before it.
        prev: f64,
    },
    /// More or fewer sampling steps than the schedule can give.
    #[error("cannot take {steps} steps out of {num_train_timesteps} training timesteps with {spacing} spacing")]
    Steps {
        /// The number asked for.
        steps: usize,
        /// T of the schedule.
        num_train_timesteps: usize,
        /// The rule that was to choose them.
        spacing: String,
    },
    /// A list of timesteps that is empty, out of range or out of order.
    #[error("timesteps[{index}] is {timestep}, expected strictly descending timesteps below {num_train_timesteps}")]
    Timestep {
        /// Position in the list.
        index: usize,
        /// What was found there.
        timestep: usize,
        /// T of the schedule.
        num_train_timesteps: usize,
    },
    /// An empty list of timesteps.
    #[error("no timesteps given")]
    NoTimesteps,
    /// A word that is not a section count or `ddimN`.
    #[error("cannot read timestep respacing `{0}`, expected `N`, `N,N,...` or `ddimN`")]
    Respacing(String),
    /// A name that nothing here has.
    #[error("unknown {what} `{name}`, expected one of {expected}")]
    Name {
        /// What was being named.
        what: &'static str,
        /// The name found.
        name: String,
        /// The names that exist.
        expected: String,
    },
    /// A number out of its range.
    #[error("{name} is {value}, expected {expected}")]
    Value {
        /// Name of the parameter.
        name: &'static str,
        /// What was given.
        value: f64,
        /// What is accepted.
        expected: &'static str,
    },
    /// Two lists that should have one length.
    #[error("{name} has {found} entries, expected {expected}")]
    Length {
        /// Name of the list.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
    },
    /// A row of a solver table that uses a prediction which does not exist yet, or a number that is not one.
    #[error("solver table `{table}`, row {row}: {problem}")]
    Row {
        /// Name of the table.
        table: String,
        /// Index of the row.
        row: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Two choices that exclude each other.
    #[error("{0}")]
    Unsupported(String),
    /// A `scheduler_config.json` that is not one, or that asks for what this program does not do.
    #[error("scheduler_config.json: {0}")]
    SchedulerConfig(String),
}
