//! Flags of classifier-free guidance.

use anyhow::bail;
use clap::Args;
use ddpm::Pipeline;
use ddpm::model::guidance::Guidance;

use crate::values;

/// Flags of classifier-free guidance.
#[derive(Args)]
#[command(next_help_heading = "Classes")]
pub struct GuidanceArgs {
    /// Scale of classifier-free guidance: 1 is none, more makes classes clearer and images less varied
    #[arg(long, value_parser = values::finite, value_name = "SCALE")]
    guidance: Option<f64>,
    /// First and last timestep of --guidance, e.g. 200,800. Defaults to all
    #[arg(long, requires = "guidance", value_parser = values::interval, value_name = "FROM,TO")]
    guidance_interval: Option<(f64, f64)>,
    /// Label that stands for no class. Defaults to the model's, if it was trained with train.label_dropout
    #[arg(long, value_name = "CLASS")]
    null_label: Option<u32>,
}

impl GuidanceArgs {
    /// Tells the pipeline its null label, if one is given, and returns the guidance.
    pub fn apply(&self, pipeline: &mut Pipeline) -> anyhow::Result<Option<Guidance>> {
        let null_label = self.null_label.or(pipeline.preprocessing.null_label);
        pipeline.preprocessing.null_label = null_label;
        let Some(scale) = self.guidance else { return Ok(None) };
        if pipeline.classes().is_none() {
            bail!("--guidance: the model has no classes, and guidance is towards a class");
        }
        let Some(null_label) = null_label else {
            bail!("--guidance: the model does not say which label stands for no class; add --null-label");
        };
        Ok(Some(Guidance::new(scale, null_label).within(self.guidance_interval)))
    }
}
