//! The same bits with every instruction set: a training, its checkpoints, samples, likelihoods and latents.

use std::fs;

use crate::common::Place;

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let result = |set: &str| {
        // A place of its own, since files of samples name their model.
        let place = Place::new();
        let ddpm = |arguments: &[&str]| {
            let output = place.ddpm(&[arguments, &["--quiet", "--instructions", set]].concat()).output().unwrap();
            assert!(output.status.success(), "{set}: {}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        // Learned variances and a loss-aware choice of timesteps depend on the values of losses, not on gradients alone.
        let keys =
            ["diffusion.variance=learned_range", "diffusion.loss=hybrid", "diffusion.timestep_sampler=importance"];
        let keys: Vec<&str> = keys.iter().flat_map(|key| ["--set", key]).collect();
        place.train("run", 8, &keys).args(["--quiet", "--instructions", set]).assert().success();
        let mut all: Vec<(String, Vec<u8>)> = place.weights("run", 8).into_iter().collect();
        for sampler in ["ddpm", "dpmpp-2m", "unipc-3", "heun"] {
            ddpm(&["sample", "run", "-n", "3", "--sampler", sampler, "--steps", "5", "-o", "samples.safetensors"]);
            all.push((sampler.to_owned(), fs::read(place.path("samples.safetensors")).unwrap()));
        }
        let metrics = ["nll", "ode"].map(|metric| {
            (metric.to_owned(), ddpm(&["evaluate", "run", "--metrics", metric, "-n", "3", "--steps", "6", "--json"]))
        });
        all.extend(metrics);
        all
    };
    let expected = result("avx512");
    for set in ["avx2", "portable"] {
        for ((what, found), (_, expected)) in result(set).into_iter().zip(&expected) {
            assert!(found == *expected, "{set}: {what} differs");
        }
    }
}
