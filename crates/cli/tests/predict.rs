//! `ddpm predict`: the bare network.

use crate::common::*;

const SHAPE: [usize; 4] = [3, 1, 8, 8];

fn inputs() -> (Vec<f32>, Vec<f32>) {
    (noise(3 * 64).map(|v| 2.0 * v - 1.0).collect(), vec![0.0, 17.0, 49.0])
}

fn predict(place: &Place, model: &str, input: &str) -> assert_cmd::Command {
    place.ddpm(&["predict", model, "--input", input, "-o", "out.safetensors"])
}

/// The prediction of an input.
fn answer(place: &Place, model: &str, input: &str) -> Vec<f32> {
    predict(place, model, input).arg("-q").assert().success().stdout("").stderr("");
    tensor(&place.path("out.safetensors"), "prediction").data
}

#[test]
fn an_image_does_not_depend_on_those_beside_it() {
    let place = Place::new();
    place.trained("run", 4, &[]);
    let (x, t) = inputs();
    let all = place.tensors("all.safetensors", [("x", &SHAPE, x.clone()), ("t", &[3], t.clone())]);
    let result = json(predict(&place, "run", &all));
    assert_eq!(result["shape"], serde_json::json!(SHAPE));
    let together = tensor(&place.path("out.safetensors"), "prediction");
    assert_eq!(together.shape, SHAPE);
    assert!(together.data.iter().all(|v| v.is_finite()));
    for i in 0..3 {
        let one = [("x", &[1usize, 1, 8, 8][..], x[64 * i..][..64].to_vec()), ("t", &[1], vec![t[i]])];
        let one = place.tensors("one.safetensors", one);
        assert_eq!(answer(&place, "run", &one), together.data[64 * i..][..64], "image {i}");
    }
}

#[test]
fn time_and_class_make_a_difference() {
    let place = Place::new();
    place.trained("run", 8, &["--set", "data.labels=true", "--set", "train.learning_rate=0.01"]);
    let (x, _) = inputs();
    let ask = |t: f32, label: f32| {
        let input = [("x", &SHAPE[..], x.clone()), ("t", &[3], vec![t; 3]), ("labels", &[3], vec![label; 3])];
        answer(&place, "run", &place.tensors("in.safetensors", input))
    };
    let base = ask(10.0, 0.0);
    assert_eq!(base, ask(10.0, 0.0));
    assert_ne!(base, ask(11.0, 0.0));
    assert_ne!(base, ask(10.0, 1.0));
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    place.trained("classes", 2, &["--set", "data.labels=true"]);
    let (x, t) = inputs();
    let file = "in.safetensors";
    let without = place.tensors(file, [("x", &SHAPE, x.clone())]);
    fails(predict(&place, "run", &without), 1, &[file, "`t` is missing"]);
    let short = place.tensors(file, [("x", &SHAPE, x.clone()), ("t", &[2], vec![1.0; 2])]);
    fails(predict(&place, "run", &short), 1, &[file, "`t` has 2 values", "3 images"]);
    let rgb = place.tensors(file, [("x", &[1, 3, 8, 8], x.clone()), ("t", &[1], vec![1.0])]);
    fails(predict(&place, "run", &rgb), 1, &[file, "`x` has shape [1, 3, 8, 8]", "[N, 1, H, W]"]);
    let odd = place.tensors(file, [("x", &[3, 1, 64, 1], x.clone()), ("t", &[3], t.clone())]);
    fails(predict(&place, "run", &odd), 1, &[file, "`x`", "64x1"]);
    let good = place.tensors(file, [("x", &SHAPE, x.clone()), ("t", &[3], t.clone())]);
    fails(predict(&place, "classes", &good), 1, &["labels", "below 3", "found none"]);
    for (label, words) in [(3.0, "below 3"), (-1.0, "`labels` has -1"), (0.5, "`labels` has 0.5")] {
        let input = [("x", &SHAPE[..], x.clone()), ("t", &[3], t.clone()), ("labels", &[3], vec![label; 3])];
        let input = place.tensors(file, input);
        fails(predict(&place, "classes", &input), 1, &["labels", words]);
        fails(predict(&place, "run", &input), 1, &["labels"]);
    }
    fails(predict(&place, "run", "nowhere.safetensors"), 1, &["nowhere.safetensors"]);
    let good = place.tensors(file, [("x", &SHAPE, x), ("t", &[3], t)]);
    fails(place.ddpm(&["predict", "run", "--input", &good, "-o", "no/such/out.safetensors"]), 1, &["no/such/out"]);
}
