//! The classes that samples have, and guidance towards them.

use clap::Args;
use ddpm::Pipeline;
use ddpm::sample::Guidance;
use ddpm::train::Config;

use crate::usage;

/// Flags of guidance.
#[derive(Args)]
pub struct Guide {
    /// Classifier-free guidance towards the classes: 1 is none, more makes them clearer and less varied
    #[arg(long, value_name = "SCALE")]
    guidance: Option<f64>,
    /// The timesteps that --guidance is for, e.g. 200,800; by default all
    #[arg(long, value_delimiter = ',', requires = "guidance", value_name = "FROM,TO")]
    guidance_interval: Option<Vec<f64>>,
    /// The class that stands for none; by default that of the run, if it was trained with train.label_dropout
    #[arg(long, value_name = "CLASS")]
    null_label: Option<u32>,
}

impl Guide {
    /// The classes of a model that has any, without that which stands for none, and the guidance that is asked for.
    pub fn of(&self, pipeline: &Pipeline) -> anyhow::Result<(Option<Vec<u32>>, Option<Guidance>)> {
        let null_label = self.null_label.or_else(|| null_label(pipeline));
        let rows = pipeline.unet.config().num_class_embeds;
        let classes = rows.map(|rows| (0..rows as u32).filter(|&class| Some(class) != null_label).collect());
        Ok((classes, self.guidance(null_label)?))
    }

    fn guidance(&self, null_label: Option<u32>) -> anyhow::Result<Option<Guidance>> {
        let Some(scale) = self.guidance else { return Ok(None) };
        let interval = match self.guidance_interval.as_deref() {
            None => (f64::NEG_INFINITY, f64::INFINITY),
            Some(&[from, to]) if from <= to => (from, to),
            Some(_) => return Err(usage("--guidance-interval: expected two timesteps, the lower first: 200,800")),
        };
        if !scale.is_finite() {
            return Err(usage(format!("--guidance {scale}: expected a number")));
        }
        let Some(null_label) = null_label else {
            return Err(usage("--guidance: nothing says which class stands for none; add --null-label"));
        };
        Ok(Some(Guidance { scale, null_label, interval }))
    }
}

/// The class that stands for none in a run that was trained with dropped labels: the last.
fn null_label(pipeline: &Pipeline) -> Option<u32> {
    let dropped = Config::of_checkpoint(&pipeline.root).is_some_and(|config| config.train.label_dropout > 0.0);
    pipeline.unet.config().num_class_embeds.filter(|_| dropped).map(|rows| rows as u32 - 1)
}
