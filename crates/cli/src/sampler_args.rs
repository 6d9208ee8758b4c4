//! Flags of a sampler and its steps.

use clap::Args;
use ddpm::diffusion::{Churn, OdeSolver, SchedulerConfig, SolverTable, TimestepGrid, TimestepSpacing, Variance};
use ddpm::model::Sampling;
use ddpm::sample::{Sampler, SamplerOptions};

use crate::error::usage;
use crate::values;

/// Flags of a sampler and its steps.
#[derive(Args)]
#[command(next_help_heading = "Sampler")]
pub struct SamplerArgs {
    /// Sampler: ddpm (ancestral), ddim, or one of higher order for good images in few steps. Defaults to that of the run's
    /// [sample] section, or to the scheduler of a model without a run, and to ddpm for inpainting
    #[arg(long, value_parser = values::sampler(), value_name = "NAME")]
    sampler: Option<Sampler>,
    /// Number of steps. Defaults to that of the run with the run's sampler, else to all T steps; 20, uniform in log-SNR, for
    /// higher-order samplers; 50 for other schedulers of models
    #[arg(long, value_parser = values::positive, value_name = "K")]
    pub steps: Option<usize>,
    /// Rule that spaces the timesteps, as in diffusers. Defaults to the model's
    #[arg(long, value_parser = values::spacing(), value_name = "RULE")]
    spacing: Option<TimestepSpacing>,
    /// Timestep grid, between whole timesteps too. Defaults to log-snr for higher-order samplers
    #[arg(long, conflicts_with = "spacing", value_parser = values::grid(), value_name = "GRID")]
    grid: Option<TimestepGrid>,
    /// Round the grid to whole timesteps
    #[arg(long, conflicts_with_all = ["spacing", "timesteps"])]
    snap: bool,
    /// Visit exactly these timesteps, e.g. 999,750,500,250,0
    #[arg(long, value_delimiter = ',', value_parser = values::timestep, conflicts_with_all = ["steps", "spacing", "grid"], value_name = "T,…")]
    pub timesteps: Option<Vec<usize>>,
    /// Noise of ddim: 0 for none, 1 for as much as ancestral sampling adds
    #[arg(long, value_parser = values::share, value_name = "ETA")]
    eta: Option<f64>,
    /// Variance of ddpm. Defaults to the model's
    #[arg(long, value_parser = values::variance(), value_name = "KIND")]
    variance: Option<Variance>,
    /// Noise of edm-sde, of all steps together: 0 is heun, 1000 the most. Also with the range of σ/α in which noise is added
    /// and its deviation, as in 40,0.05,50,1.003; by default 0.01, 1 and 1.007
    #[arg(long, value_parser = values::churn, value_name = "S[,MIN,MAX,NOISE]")]
    churn: Option<Churn>,
}

impl SamplerArgs {
    /// Returns the sampler with its noise.
    ///
    /// # Errors
    /// If a flag is given that the sampler ignores.
    pub fn sampler(&self, default: Sampler) -> anyhow::Result<Sampler> {
        let sampler = self.sampler.unwrap_or(default);
        if self.eta.is_some_and(|eta| eta != 0.0) && !matches!(sampler, Sampler::Ddim { .. }) {
            return Err(usage("--eta is for --sampler ddim; the noise of ddpm is set by --variance"));
        }
        let twice = self.timesteps.iter().flat_map(|list| list.windows(2)).position(|pair| pair[0] == pair[1]);
        if let (Some(i), Some(list)) = (twice, &self.timesteps) {
            return Err(usage(format!(
                "--timesteps: timesteps[{}] is {} again, expected descending order",
                i + 1,
                list[i + 1]
            )));
        }
        if self.variance.is_some() && sampler != Sampler::Ddpm {
            return Err(usage(format!("--variance is for --sampler ddpm; {sampler} ignores it")));
        }
        match (self.eta.map_or(sampler, |eta| sampler.with_eta(eta)), self.churn) {
            (sampler, None) => Ok(sampler),
            (Sampler::EdmSde(_), Some(churn)) => Ok(Sampler::EdmSde(churn)),
            _ => Err(usage("--churn is for --sampler edm-sde")),
        }
    }

    /// Returns the sampler and its steps for a model with this scheduler, whose run draws samples so.
    ///
    /// # Errors
    /// As [`SamplerArgs::sampler`].
    pub fn of_model(
        &self,
        scheduler: &SchedulerConfig,
        run: Option<&Sampling>,
    ) -> anyhow::Result<(Sampler, SamplerOptions)> {
        let (own, steps) = Sampler::of_model(scheduler, run)?;
        let options = self.options();
        let steps = steps.filter(|_| self.sampler.is_none() && self.timesteps.is_none());
        Ok((self.sampler(own)?, SamplerOptions { steps: options.steps.or(steps), ..options }))
    }

    /// Checks the flags of a sampler that is named.
    pub fn check(&self) -> anyhow::Result<()> {
        self.sampler.map_or(Ok(()), |named| self.sampler(named).map(drop))
    }

    /// Returns what was taken from the model's run or scheduler, as a line to print, if no sampler is named.
    pub fn own_sampler(
        &self,
        scheduler: &SchedulerConfig,
        run: Option<&Sampling>,
        table: &SolverTable,
    ) -> Option<Line> {
        if self.sampler.is_some() {
            return None;
        }
        let (class, evaluations) = (scheduler.class, table.rows.len());
        if let Some(Sampling { sampler, .. }) = run {
            let from = if self.steps.is_none() && self.timesteps.is_none() {
                ", as the run draws its samples"
            } else {
                ", the run's sampler"
            };
            return Some(Line::Note(format!("sampler: {sampler}, {evaluations} evaluations{from}")));
        }
        if scheduler.prediction_type.is_edm() {
            let sampler = Sampler::of(scheduler);
            return Some(Line::Note(format!("sampler: {sampler}, EDM's own, {evaluations} evaluations")));
        }
        if !class.has_sampler() {
            return Some(Line::Warning(format!(
                "the model's {class} has no sampler here; ddpm samples with its betas ({evaluations} steps), or name another \
                 with --sampler"
            )));
        }
        let scheduler = SchedulerConfig {
            timestep_spacing: self.spacing.unwrap_or(scheduler.timestep_spacing),
            variance_type: self.variance.unwrap_or(scheduler.variance_type),
            ..scheduler.clone()
        };
        let timesteps = match (&self.timesteps, self.grid) {
            (Some(_), _) => ", at --timesteps",
            (None, Some(_)) => ", on --grid",
            (None, None) => "",
        };
        Some(Line::Note(format!("sampler: the model's {}{timesteps}, {evaluations} evaluations", scheduler.describe())))
    }

    /// Returns warnings about timesteps that are not those that were asked for.
    pub fn warnings(&self, sampler: Sampler, table: &SolverTable) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(list) = self.timesteps.as_deref().filter(|list| !list.is_sorted_by(|a, b| a > b)) {
            let mut sorted = list.to_vec();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let sorted = sorted.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            warnings.push(format!("--timesteps are visited from noise to data: {sorted}"));
        }
        let expected = |steps: usize| match sampler {
            Sampler::EdmSde(_) | Sampler::Ode(OdeSolver::Heun) => 2 * steps - 1,
            _ => steps,
        };
        if let (Some(steps @ 1..), rows) = (self.steps, table.rows.len())
            && rows < expected(steps)
        {
            let grid = if self.spacing.is_some() { "--spacing" } else { "--grid" };
            warnings.push(format!(
                "{rows} evaluations for --steps {steps}: {grid} repeats timesteps, which are visited once"
            ));
        }
        warnings
    }

    /// Returns the steps and where they lie, but for explicit timesteps.
    pub fn options(&self) -> SamplerOptions {
        SamplerOptions {
            steps: self.steps,
            spacing: self.spacing,
            grid: self.grid,
            snap: self.snap,
            variance: self.variance,
        }
    }

    /// Returns the solver table.
    pub fn table(
        &self,
        sampler: Sampler,
        options: SamplerOptions,
        scheduler: &SchedulerConfig,
    ) -> anyhow::Result<SolverTable> {
        let Some(timesteps) = &self.timesteps else { return Ok(sampler.table(scheduler, options)?) };
        let variance_type = self.variance.unwrap_or(scheduler.variance_type);
        Ok(sampler.with_timesteps(&SchedulerConfig { variance_type, ..scheduler.clone() }, timesteps)?)
    }
}

/// A line about a sampler.
pub enum Line {
    /// A line about what is done, which --quiet suppresses.
    Note(String),
    /// A warning, which it does not.
    Warning(String),
}

impl Line {
    /// Prints the line to standard error.
    pub fn print(&self, quiet: bool) {
        match self {
            Self::Note(_) if quiet => {}
            Self::Note(line) => eprintln!("{line}"),
            Self::Warning(line) => eprintln!("warning: {line}"),
        }
    }
}
