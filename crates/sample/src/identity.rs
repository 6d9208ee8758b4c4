//! The identity of a generation: a digest of everything that determines its images, except their number. It is stored
//! in the files, so that images of another model, seed or sampler are not mixed with them.

use std::hash::Hasher;

use model::Pipeline;
use serde::Serialize;
use twox_hash::XxHash64;

/// Returns the digest of a model, 16 hexadecimal digits: of its network's configuration, its parameters and its scheduler.
pub fn model_digest(pipeline: &Pipeline) -> String {
    Identity::of(pipeline).digest()
}

/// A digest under construction.
#[derive(Clone)]
pub(crate) struct Identity(XxHash64);

impl Identity {
    /// Starts a digest with the network's configuration, its parameters and its scheduler.
    pub fn of(pipeline: &Pipeline) -> Self {
        let mut identity = Self(XxHash64::with_seed(0));
        identity.0.write(pipeline.network.config().as_bytes());
        identity.add("scheduler", &pipeline.scheduler);
        for flat in pipeline.network.flat_parameters() {
            identity.0.write(flat.name.as_bytes());
            identity.0.write(flat.values.into_data().as_bytes());
        }
        identity
    }

    /// Adds a value.
    pub fn add(&mut self, name: &str, value: &impl Serialize) {
        self.0.write(name.as_bytes());
        self.0.write(serde_json::to_string(value).unwrap_or_default().as_bytes());
    }

    /// Returns the digest, 16 hexadecimal digits.
    pub fn digest(&self) -> String {
        format!("{:016x}", self.0.finish())
    }
}
