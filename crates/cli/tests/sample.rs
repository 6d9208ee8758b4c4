//! `ddpm sample`: an image depends on its seed and number alone, and arrives in every form.

use crate::common::*;
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;

fn place_with_model() -> Place {
    let place = Place::new();
    place.trained("run", 4, &[]);
    place
}

#[test]
fn batch_size_and_threads_do_not_change_a_byte() {
    let place = place_with_model();
    for form in [".png", ".npz", ".safetensors", ".gif", ""] {
        for (sampler, eta) in [("ddpm", "0"), ("ddim", "0.5")] {
            let mut first = None;
            for (batch, threads) in [("1", "1"), ("3", "2"), ("16", "4")] {
                let out = format!("{sampler}-{batch}{form}");
                let mut command = place.ddpm(&["sample", "run", "-n", "5", "--steps", "4", "--sampler", sampler]);
                command.args(["--eta", eta, "--batch-size", batch, "--threads", threads, "--quiet", "-o", &out]);
                command.assert().success().stdout("").stderr("");
                let path = place.path(&out);
                let bytes: Vec<_> = match form {
                    "" => files(&path).into_iter().map(|file| fs::read(path.join(file)).unwrap()).collect(),
                    _ => vec![fs::read(path).unwrap()],
                };
                assert_eq!(first.get_or_insert_with(|| bytes.clone()), &bytes, "{out}");
            }
        }
    }
}

#[test]
fn image_i_of_a_seed_is_always_the_same() {
    let place = place_with_model();
    let draw = |out: &str, more: &[&str]| {
        place.ddpm(&["sample", "run", "--steps", "4", "--quiet", "-o", out]).args(more).assert().success();
        let samples = tensor(&place.path(out), "samples");
        samples.data.chunks(64).map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    let six = draw("six.safetensors", &["-n", "6"]);
    let last = draw("last.safetensors", &["-n", "2", "--first", "4"]);
    assert_eq!(six[4..], last);
    let other = draw("other.safetensors", &["-n", "6", "--seed", "1"]);
    assert!(six.iter().zip(&other).all(|(a, b)| a != b));
    assert!((0..6).all(|i| (0..i).all(|j| six[i] != six[j])), "all differ");
}

/// Whatever the form, a pixel is round(clamp((x + 1)·127.5)).
#[test]
fn pictures_show_the_numbers() {
    let place = place_with_model();
    for out in ["s.safetensors", "pictures", "grid.png", "s.npz"] {
        let command = ["sample", "run", "-n", "3", "--steps", "4", "--quiet", "-o", out];
        place.ddpm(&command).assert().success();
    }
    let samples = tensor(&place.path("s.safetensors"), "samples");
    assert_eq!(samples.shape, [3, 1, 8, 8]);
    let expected: Vec<u8> = samples.data.iter().map(|x| ((x + 1.0) * 127.5).clamp(0.0, 255.0).round() as u8).collect();
    assert_eq!(names(&place.path("pictures")), ["000000.png", "000001.png", "000002.png"]);
    for (i, pixels) in expected.chunks(64).enumerate() {
        let picture = image::open(place.path(format!("pictures/{i:06}.png"))).unwrap();
        assert_eq!(picture.to_luma8().into_raw(), pixels);
    }
    // The grid has each image somewhere, small ones enlarged by a whole number.
    let grid = image::open(place.path("grid.png")).unwrap().to_luma8();
    let at = |x: u32, y: u32, scale: u32| {
        let pixel = move |i: u32| (x + scale * (i % 8), y + scale * (i / 8));
        (0..64).map(pixel).map(|(x, y)| grid.get_pixel(x, y)[0])
    };
    let found = |pixels: &[u8]| {
        (1..=8).any(|scale| {
            let (xs, ys) = (grid.width().saturating_sub(7 * scale), grid.height().saturating_sub(7 * scale));
            (0..xs).any(|x| (0..ys).any(|y| at(x, y, scale).eq(pixels.iter().copied())))
        })
    };
    assert!(expected.chunks(64).all(found));
    // npz: the program reads it back as a set of images.
    let set = json(place.ddpm(&["inspect", "s.npz"]));
    assert_eq!(set["images"]["images"], 3);
    let mean = expected.iter().map(|&u| f64::from(u) / 255.0).sum::<f64>() / expected.len() as f64;
    assert!((set["images"]["mean"][0].as_f64().unwrap() - mean).abs() < 1e-6);
}

#[test]
fn trajectories_are_shown_as_animations_and_sheets() {
    let place = place_with_model();
    for out in ["a.gif", "a.png", "folder"] {
        place.ddpm(&["sample", "run", "-n", "2", "--steps", "5", "--animate", "--quiet", "-o", out]).assert().success();
    }
    let gif = fs::read(place.path("a.gif")).unwrap();
    assert_eq!(&gif[..6], b"GIF89a");
    use image::AnimationDecoder;
    let decoder = image::codecs::gif::GifDecoder::new(std::io::Cursor::new(gif)).unwrap();
    assert!(decoder.into_frames().count() >= 5);
    let png = fs::read(place.path("a.png")).unwrap();
    assert!(image::codecs::png::PngDecoder::new(std::io::Cursor::new(png)).unwrap().is_apng().unwrap());
    assert_eq!(names(&place.path("folder")), ["000000.png", "000001.png"]);
    assert!(place.path("folder-progress.png").is_file());
}

#[test]
fn given_noise_is_where_it_starts() {
    let place = place_with_model();
    let values: Vec<f32> = noise(3 * 64).map(|v| 3.0 * v - 1.5).collect();
    let file = place.tensors("noise.safetensors", [("noise", &[3, 1, 8, 8], values.clone())]);
    let draw = |out: &str, n: &str| {
        let command =
            ["sample", "run", "-n", n, "--init", &file, "--sampler", "ddim", "--timesteps", "40", "-q", "-o", out];
        place.ddpm(&command).assert().success();
        tensor(&place.path(out), "samples").data
    };
    let three = draw("three.safetensors", "3");
    assert_eq!(three[..128], draw("two.safetensors", "2"));

    // One step of DDIM to the end is x̂0 = (x − √(1−ᾱ)·ε) / √ᾱ, clipped, with ε from the bare network.
    let input = [("x", &[3usize, 1, 8, 8][..], values.clone()), ("t", &[3], vec![40.0; 3])];
    let input = place.tensors("in.safetensors", input);
    place.ddpm(&["predict", "run", "--input", &input, "-o", "out.safetensors", "-q"]).assert().success();
    let epsilon = tensor(&place.path("out.safetensors"), "prediction").data;
    let beta = |t: usize| 1e-4 + (0.02 - 1e-4) * t as f64 / 49.0;
    let alpha: f64 = (0..=40).map(|t| 1.0 - beta(t)).product();
    for ((x, e), got) in values.iter().zip(&epsilon).zip(&three) {
        let sample = (f64::from(*x) - (1.0 - alpha).sqrt() * f64::from(*e)) / alpha.sqrt();
        assert!((sample.clamp(-1.0, 1.0) - f64::from(*got)).abs() < 1e-5, "{sample} {got}");
    }
}

#[test]
fn classes_are_what_was_asked_for() {
    let place = Place::new();
    place.trained("run", 4, &["--set", "data.labels=true"]);
    let draw = |out: &str, labels: &[&str]| {
        let command = ["sample", "run", "-n", "4", "--steps", "3", "--quiet", "-o", out];
        place.ddpm(&command).args(labels).assert().success();
        tensor(&place.path(out), "samples").data
    };
    let turns = draw("turns.safetensors", &[]);
    assert_eq!(turns, draw("given.safetensors", &["--labels", "0,1,2,0"]), "by default the classes in turn");
    let ones = draw("ones.safetensors", &["--labels", "1"]);
    assert_eq!(turns[64..128], ones[64..128]);
    assert_ne!(turns[..64], ones[..64]);
    fails(place.ddpm(&["sample", "run", "-n", "4", "--steps", "2", "--labels", "3"]), 2, &["unknown class", "0, 1, 2"]);
    fails(place.ddpm(&["sample", "run", "-n", "4", "--steps", "2", "--labels", "1,2"]), 2, &["--labels", "1 or 4"]);
}

#[test]
fn other_sizes_can_be_drawn() {
    let place = place_with_model();
    let result = json(place.ddpm(&["sample", "run", "-n", "2", "--steps", "2", "--size", "12x16", "-o", "x.npz"]));
    assert_eq!((&result["height"], &result["width"]), (&12.into(), &16.into()));
    fails(place.ddpm(&["sample", "run", "--size", "11", "--steps", "2"]), 1, &["11x11", "multiples of 2", "12x12"]);
    mistaken(place.ddpm(&["sample", "run", "--size", "axb", "--steps", "2"]), &["--size", "'axb'", "HEIGHTxWIDTH"]);
    let huge = ["sample", "run", "--steps", "2", "--size", "99999998x99999998"];
    fails(place.ddpm(&huge), 1, &["at once need about", "--batch-size"]);
    let many = ["sample", "run", "--steps", "2", "-n", "99999999999999"];
    fails(place.ddpm(&many), 1, &["65535 pixels", "to a folder, .npz or .safetensors"]);
}

#[test]
fn a_model_is_found_in_every_folder_that_has_one() {
    let place = place_with_model();
    let draw = |model: &str| {
        let command = ["sample", model, "-n", "1", "--sampler", "ddpm", "--steps", "2", "-q", "-o", "x.safetensors"];
        place.ddpm(&command).assert().success();
        tensor(&place.path("x.safetensors"), "samples").data
    };
    let expected = draw("run");
    assert_eq!(expected, draw("run/checkpoints"));
    assert_eq!(expected, draw("run/checkpoints/000000004"));
    // A flat repository: everything in one folder.
    fs::create_dir(place.path("flat")).unwrap();
    for file in ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"] {
        let from = place.path("run/checkpoints/000000004").join(file);
        fs::copy(&from, place.path("flat").join(from.file_name().unwrap())).unwrap();
    }
    assert_eq!(expected, draw("flat"));
}

#[test]
fn what_cannot_be_drawn_is_refused_before_any_work() {
    let place = place_with_model();
    let sample = |more: &[&str]| {
        let mut command = place.ddpm(&["sample", "run"]);
        command.args(more);
        command
    };
    mistaken(sample(&["--sampler", "euler"]), &["--sampler", "'euler'", "ddpm", "ddim", "unipc-2"]);
    mistaken(sample(&["--spacing", "even"]), &["--spacing", "'even'", "leading"]);
    mistaken(sample(&["--variance", "big"]), &["--variance", "'big'", "fixed_large"]);
    mistaken(sample(&["--steps", "0"]), &["--steps", "at least 1"]);
    fails(sample(&["--steps", "51"]), 1, &["51 steps", "50"]);
    fails(sample(&["--timesteps", "5,5"]), 2, &["timesteps[1] is 5", "descending"]);
    fails(sample(&["--timesteps", "50"]), 1, &["timesteps[0] is 50", "below 50"]);
    mistaken(sample(&["--sampler", "ddim", "--eta", "2"]), &["--eta", "0 to 1"]);
    fails(sample(&["--sampler", "ddpm", "--variance", "learned"]), 1, &["variance is learned", "output channels"]);
    mistaken(sample(&["-n", "0"]), &["-n", "at least 1"]);
    mistaken(sample(&["--batch-size", "0"]), &["--batch-size", "at least 1"]);
    fails(sample(&["-o", "x.jpg"]), 2, &["x.jpg", ".png", ".npz"]);
    fails(sample(&["--animate", "-o", "x.npz"]), 2, &["x.npz", "animation"]);
    mistaken(sample(&["--sampler", "ddpm", "--share-until", "NaN"]), &["--share-until", "NaN", "0 or more"]);
    fails(sample(&["--sampler", "ddpm", "--share-until", "51"]), 1, &["51", "0 to 50"]);
    fails(sample(&["--guidance", "2"]), 1, &["no classes"]);
    fails(sample(&["--by-class"]), 1, &["no classes"]);
    fails(sample(&["--labels", "1"]), 1, &["labels", "no classes"]);
    fails(sample(&["-o", "run/config.toml/x.png"]), 1, &["run/config.toml", "is a file"]);
    fails(sample(&["-o", "run/config.toml"]), 2, &["run/config.toml"]);
    fails(sample(&["--init", "nowhere.safetensors"]), 1, &["nowhere.safetensors", "No such file"]);
    fails(place.ddpm(&["sample", "nowhere"]), 1, &["nowhere", "no such file or folder"]);
}

#[test]
fn given_noise_must_fit() {
    let place = place_with_model();
    let init = |shape: &[usize], name: &str, change: &dyn Fn(&mut Vec<f32>)| {
        let mut values = noise(shape.iter().product()).collect();
        change(&mut values);
        let file = place.tensors("init.safetensors", [(name, shape, values)]);
        place.ddpm(&["sample", "run", "-n", "2", "--steps", "2", "--init", &file])
    };
    let same = |_: &mut Vec<f32>| {};
    init(&[2, 1, 8, 8], "noise", &same).assert().success();
    // Without -n, all of it is used.
    let all = ["sample", "run", "--steps", "2", "--init", "init.safetensors", "-o", "all.safetensors"];
    assert_eq!(json(place.ddpm(&all))["images"], 2);
    let nan = |values: &mut Vec<f32>| values[77] = f32::NAN;
    fails(init(&[2, 1, 8, 8], "noise", &nan), 1, &["init.safetensors", "`noise`", "not finite", "77"]);
    fails(init(&[2, 1, 8, 8], "noize", &same), 1, &["init.safetensors", "`noise` is missing"]);
    fails(init(&[1, 1, 8, 8], "noise", &same), 1, &["init.safetensors", "1 images", "2"]);
    fails(init(&[2, 3, 8, 8], "noise", &same), 1, &["3 channels", "takes 1"]);
    fails(init(&[2, 1, 7, 8], "noise", &same), 1, &["7x8", "8x8"]);
    fails(init(&[2, 64], "noise", &same), 1, &["init.safetensors", "[N, C, H, W]"]);
}

#[test]
fn it_says_how_fast_it_was() {
    let place = place_with_model();
    let done = contains("4 images").and(contains("images/s")).and(contains("samples.png"));
    place.ddpm(&["sample", "run", "-n", "4", "--steps", "2"]).assert().success().stdout("").stderr(done);
    let result = json(place.ddpm(&["sample", "run", "-n", "4", "--steps", "2", "-q"]));
    assert_eq!((&result["images"], &result["steps"]), (&4.into(), &2.into()));
    assert!(result["images_per_second"].as_f64().unwrap() > 0.0);
}

/// A command that is killed and repeated leaves the bytes of one that was not, in every form.
#[cfg(unix)]
#[test]
fn a_killed_command_continues_to_the_same_bytes() {
    let place = place_with_model();
    let sample = |out: &str, more: &[&str]| {
        let command = ["sample", "run", "-n", "60", "--batch-size", "2", "--steps", "50", "-o", out];
        place.ddpm(&[&command[..], more].concat())
    };
    for out in ["folder", "s.npz", "s.png", "s.safetensors", "s.gif"] {
        let whole = format!("whole-{out}");
        sample(&whole, &["--quiet"]).assert().success();
        fails(sample(out, &["--continue"]), 1, &[out, "no interrupted run", "leave out --continue"]);

        let mut child = place.start(&sample(out, &[]), "log");
        let partial = place.path(format!("{out}.partial"));
        let begun = || match out {
            "folder" => place.path(out).is_dir() && names(&place.path(out)).len() > 4,
            // The checksums of four images, which mark these as complete.
            _ => fs::metadata(partial.join("checksums")).is_ok_and(|file| file.len() >= 32),
        };
        let start = std::time::Instant::now();
        while !begun() {
            assert!(start.elapsed().as_secs() < 60, "{out} does not begin");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        let finished = if out == "folder" { names(&place.path(out)).len() >= 60 } else { place.path(out).exists() };
        assert!(!finished, "{out} was killed too late");

        // Not mixed with images of another seed, and the way out is named.
        let other = ["--seed", "1"];
        let words =
            if out == "folder" { ["another folder", "or remove"] } else { ["repeat that command", "or remove"] };
        fails(sample(out, &other), 1, &[&[out, "another model, seed"][..], &words].concat());

        let again = json(sample(out, &["--continue"]));
        let existing = again["existing"].as_u64().unwrap();
        assert!((2..60).contains(&existing), "{out}: {again}");
        let bytes = |name: &str| match out {
            "folder" => {
                let folder = place.path(name);
                let shown = files(&folder).into_iter().filter(|file| !file.starts_with('.'));
                shown.map(|file| fs::read(folder.join(file)).unwrap()).collect()
            }
            _ => vec![fs::read(place.path(name)).unwrap()],
        };
        assert_eq!(bytes(out), bytes(&whole), "{out}");
        assert!(!partial.exists(), "{out}");
    }
    // A finished folder has nothing left to do.
    let done = contains("60 images, all of them from before");
    sample("folder", &["--continue"]).assert().success().stderr(done);
}

#[test]
fn a_folder_of_other_images_is_refused() {
    let place = place_with_model();
    let sample = |out: &str, more: &[&str]| {
        let command = ["sample", "run", "-n", "2", "--steps", "3", "-o", out];
        place.ddpm(&[&command[..], more].concat())
    };
    sample("out", &[]).assert().success();
    let before = files(&place.path("out"));
    for more in [&["--seed", "1"][..], &["--sampler", "ddpm"], &["--eta", "0.5", "--sampler", "ddim"]] {
        let words =
            ["out/000000.png", "another model, seed or sampler", "write to another folder", "remove the images"];
        fails(sample("out", more), 1, &words);
    }
    assert_eq!(files(&place.path("out")), before);
    // More of the same are added.
    let more = ["sample", "run", "-n", "5", "--steps", "3", "-o", "out"];
    place.ddpm(&more).assert().success().stderr(contains("5 images, 2 of them from before"));
    assert_eq!(json(place.ddpm(&[&more[..], &["--first", "4"]].concat()))["existing"], 1);
    assert_eq!(names(&place.path("out")).len(), 9);

    // However many images there are, one is named.
    write_pngs(&place.path("photos"), 8, 8, image::ColorType::L8);
    for i in 0..300 {
        fs::copy(place.path("photos/0.png"), place.path(format!("photos/copy-{i}.png"))).unwrap();
    }
    let words = ["photos/0.png", "from elsewhere", "write to another folder", "remove the images"];
    let error = fails(sample("photos", &[]), 1, &words);
    assert!(error.len() < 400 && error.matches(".png").count() == 1, "{error}");
    assert_eq!(names(&place.path("photos")).len(), 306);
}

#[cfg(unix)]
fn signal(process: &Started, signal: &str) {
    let sent = std::process::Command::new("kill").args([signal, &process.0.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// A sheet shows the first images, whether they are drawn now or were there already.
#[test]
fn sheets_are_the_same_for_images_that_were_there() {
    let place = place_with_model();
    let sample = |out: &str, more: &[&str]| {
        let command = ["sample", "run", "-n", "6", "--steps", "10", "-o", out, "--sheet", "sheet.png"];
        place.ddpm(&[&command[..], more].concat())
    };
    let sheets = |progress: &str| ["sheet.png", progress].map(|name| fs::read(place.path(name)).unwrap());
    sample("out", &["--animate"]).assert().success();
    let (whole, third) = (sheets("out-progress.png"), fs::read(place.path("out/000002.png")).unwrap());
    for missing in [vec![], vec!["000002.png"], vec!["000000.png", "000005.png"]] {
        missing.iter().for_each(|name| fs::remove_file(place.path("out").join(name)).unwrap());
        fs::remove_file(place.path("sheet.png")).unwrap();
        fs::remove_file(place.path("out-progress.png")).unwrap();
        assert_eq!(json(sample("out", &["--animate"]))["existing"], 6 - missing.len());
        assert!(sheets("out-progress.png") == whole, "{missing:?}");
    }
    assert_eq!(fs::read(place.path("out/000002.png")).unwrap(), third);
}

#[test]
fn an_output_is_neither_another_one_nor_an_input() {
    let place = place_with_model();
    place.ddpm(&["sample", "run", "-n", "8", "-q", "-o", "s.npz"]).assert().success();
    place.ddpm(&["sample", "run", "-n", "1", "-q", "-o", "s.png"]).assert().success();
    let invert = ["invert", "run", "s.png", "--steps", "2", "-q", "-o", "latent.safetensors"];
    place.ddpm(&invert).assert().success();
    let before = ["s.npz", "s.png", "latent.safetensors"].map(|name| fs::read(place.path(name)).unwrap());
    let data = "train-images-idx3-ubyte";
    for (command, words) in [
        (
            &["evaluate", "s.npz", "--data", data, "--metrics", "nearest", "--neighbours", "s.npz"][..],
            "both an input and an output",
        ),
        (&["evaluate", "run", "--plot", "e", "--denoising", "./e"], "two outputs"),
        (&["sample", "run", "-o", "x", "--sheet", "x/000001.png"], "one output lies in the other"),
        (&["sample", "run", "-o", "x", "--animate", "--sheet", "x-progress.png"], "two outputs"),
        (&["sample", "run", "-o", "x.png", "--sheet", "x.png"], "two outputs"),
        (&["sample", "run", "--from", "s.png", "--at", "5", "-o", "s.png"], "both an input and an output"),
        (&["inpaint", "run", "s.png", "s.png", "-o", "s.png"], "both an input and an output"),
        (&["interpolate", "run", "s.png", "s.png", "-o", "s.png"], "both an input and an output"),
        (&["inspect", "s.png", "-o", "s.png"], "both an input and an output"),
    ] {
        mistaken(place.ddpm(command), &[words, "choose another name"]);
    }
    assert!(before == ["s.npz", "s.png", "latent.safetensors"].map(|name| fs::read(place.path(name)).unwrap()));
}

/// A copy of one image under the name of another is no image of this name.
#[test]
fn copies_in_a_folder_are_drawn_again() {
    let place = place_with_model();
    let sample = || place.ddpm(&["sample", "run", "-n", "6", "--steps", "10", "-o", "out"]);
    sample().assert().success();
    let before = fs::read(place.path("out/000004.png")).unwrap();
    fs::copy(place.path("out/000001.png"), place.path("out/000004.png")).unwrap();
    assert_eq!(json(sample())["existing"], 4);
    assert_eq!(fs::read(place.path("out/000004.png")).unwrap(), before);
    assert_eq!(json(sample())["existing"], 6);
}

/// The contents of OUT.partial are used only if they are whole and of this command, and nothing of the user's is removed.
#[cfg(unix)]
#[test]
fn damaged_and_foreign_unfinished_images_are_not_used() {
    let place = place_with_model();
    let sample = |out: &str, more: &[&str]| {
        let command = ["sample", "run", "-n", "60", "--batch-size", "2", "--steps", "50", "-o", out];
        place.ddpm(&[&command[..], more].concat())
    };
    sample("whole.npz", &[]).assert().success();
    let partial = place.path("s.npz.partial");
    let images = partial.join("images");
    let interrupt = || {
        let mut child = place.start(&sample("s.npz", &[]), "log");
        while !fs::metadata(&images).is_ok_and(|file| file.len() > 256) {
            assert!(child.0.try_wait().unwrap().is_none(), "finished too early");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // Another process may not write there meanwhile; this one waits, because the other tries again for a while.
        signal(&child, "-STOP");
        fails(sample("s.npz", &[]), 1, &["s.npz.partial", "another process"]);
        child.0.kill().unwrap();
        child.0.wait().unwrap();
    };
    for zeros in [false, true] {
        interrupt();
        let mut bytes = fs::read(&images).unwrap();
        if zeros {
            bytes.resize(60 * 64, 0);
        } else {
            bytes[200] ^= 1;
        }
        fs::write(&images, bytes).unwrap();
        let existing = json(sample("s.npz", &[]))["existing"].as_u64().unwrap();
        assert!(existing < 60, "{existing}");
        assert_eq!(fs::read(place.path("s.npz")).unwrap(), fs::read(place.path("whole.npz")).unwrap());
        fs::remove_file(place.path("s.npz")).unwrap();
    }
    interrupt();
    // Where no image is finished, another request takes the place.
    fs::create_dir(place.path("t.npz.partial")).unwrap();
    fs::copy(partial.join("request.json"), place.path("t.npz.partial/request.json")).unwrap();
    fs::write(place.path("t.npz.partial/images"), "half an image").unwrap();
    sample("t.npz", &["--seed", "7"]).assert().success();
    assert!(!place.path("t.npz.partial").exists());
    fs::remove_file(partial.join("request.json")).unwrap();
    fails(sample("s.npz", &["--seed", "1"]), 1, &["s.npz.partial", "no request.json", "remove this folder"]);
    fs::remove_dir_all(&partial).unwrap();

    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("notes.txt"), "mine").unwrap();
    fails(sample("s.npz", &[]), 1, &["s.npz.partial", "no request.json"]);
    assert_eq!(fs::read_to_string(partial.join("notes.txt")).unwrap(), "mine");
    fs::rename(&partial, place.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere"), &partial).unwrap();
    fails(sample("s.npz", &[]), 1, &["s.npz.partial", "symbolic link"]);
}

#[cfg(unix)]
#[test]
fn two_processes_do_not_mix_their_images() {
    let place = place_with_model();
    let sample = |seed: &str| {
        place.ddpm(&["sample", "run", "-n", "60", "--batch-size", "2", "--steps", "50", "-o", "out", "--seed", seed])
    };
    let mut child = place.start(&sample("0"), "log");
    while !place.path("out/000001.png").exists() {
        assert!(child.0.try_wait().unwrap().is_none(), "finished too early");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    signal(&child, "-STOP");
    fails(sample("1"), 1, &["out", "another process"]);
    fails(sample("0"), 1, &["out", "another process"]);
    signal(&child, "-CONT");
    assert!(child.0.wait().unwrap().success());
    assert_eq!(names(&place.path("out")).len(), 60);
}

/// A reader that goes away ends a command quietly, a full device is an error of one line, and a name that is not UTF-8
/// is printed as well as it can be.
#[cfg(target_os = "linux")]
#[test]
fn printing_never_panics() {
    use std::os::unix::ffi::OsStrExt;
    use std::process::{Command, Stdio};
    let place = place_with_model();
    let program = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm"));
        command.args(arguments).current_dir(place.path("")).stderr(Stdio::piped());
        command
    };
    for arguments in [&["schedule"][..], &["inspect", "run"], &["inspect", "run", "--json"], &["man"]] {
        let mut child = program(arguments).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(0), ""), "{arguments:?}");

        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = program(arguments).stdout(full).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains("standard output: No space left") && error.lines().count() == 1, "{error}");
    }
    let mut sample = program(&["sample", "run", "-n", "1", "--steps", "2", "--json", "-q", "-o"]);
    let output = sample.arg(std::ffi::OsStr::from_bytes(b"\xff.png")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["output"], "\u{fffd}.png");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = program(&["sample", "run", "-n", "1", "--steps", "2"]).stderr(full).status().unwrap();
    assert!(status.success(), "messages are not the result");
}

/// Damaged images of an earlier command are drawn again; names that it does not write are refused.
#[test]
fn damaged_images_do_not_count_as_drawn() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    let sample =
        |out: &str| place.ddpm(&["sample", "run", "-n", "5", "--batch-size", "2", "--steps", "3", "-q", "-o", out]);
    sample("folder").assert().success();
    sample("all.npz").assert().success();
    let image = place.path("folder/000003.png");
    let whole = fs::read(&image).unwrap();
    let data = whole.windows(4).position(|name| name == b"IDAT").unwrap() + 10;
    for cut in [false, true] {
        let mut damaged = whole.clone();
        damaged[data] ^= 1;
        damaged.truncate(if cut { data } else { whole.len() });
        fs::write(&image, &damaged).unwrap();
        sample("folder").assert().success();
        assert!(fs::read(&image).unwrap() == whole);
    }
    fs::rename(&image, place.path("folder/+3.png")).unwrap();
    fails(sample("folder"), 1, &["folder/+3.png", "write to another folder"]);
    let npz = place.path("all.npz");
    let whole = fs::read(&npz).unwrap();
    let mut damaged = whole.clone();
    damaged[200] ^= 1;
    fs::write(&npz, damaged).unwrap();
    sample("all.npz").assert().success();
    assert!(fs::read(&npz).unwrap() == whole);
}

/// Whatever lies in the folder of unfinished images, nothing outside of it is written, and nothing waits.
#[cfg(unix)]
#[test]
fn links_and_pipes_among_unfinished_images_are_refused() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    let sample = || {
        let mut command = place.ddpm(&["sample", "run", "-n", "4", "--steps", "3", "-q", "-o", "p.png"]);
        command.timeout(std::time::Duration::from_secs(60));
        command
    };
    let partial = place.path("p.png.partial");
    fs::write(place.path("precious"), "precious").unwrap();
    for name in ["images", "checksums", "request.json"] {
        fs::create_dir(&partial).unwrap();
        std::os::unix::fs::symlink("../precious", partial.join(name)).unwrap();
        fails(sample(), 1, &["p.png.partial"]);
        fs::remove_file(partial.join(name)).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(partial.join(name)).status().unwrap().success());
        fails(sample(), 1, &["p.png.partial"]);
        fs::remove_dir_all(&partial).unwrap();
    }
    assert_eq!(fs::read_to_string(place.path("precious")).unwrap(), "precious");
    sample().assert().success();
}

/// No output replaces a file that is not an output of the program: weights, configurations, photos.
#[test]
fn every_output_spares_files_from_elsewhere() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    let weights = "run/checkpoints/000000002/unet/diffusion_pytorch_model.safetensors";
    image::GrayImage::new(8, 8).save(place.path("photo.png")).unwrap();
    place.tensors("in.safetensors", [("x", &[1, 1, 8, 8], vec![0.0; 64]), ("t", &[1], vec![3.0])]);
    let images = ["--data", "train-images-idx3-ubyte"];
    let commands: [(&[&str], &[&str]); 9] = [
        (&["predict", "run", "-i", "in.safetensors", "-o"], &[weights, "in.safetensors"]),
        (&["classifier", "--steps", "1", "-o"], &[weights]),
        (&["invert", "run", "photo.png", "--steps", "2", "-o"], &[weights]),
        (&["invert", "run", "photo.png", "--steps", "2", "-o", "latents.safetensors", "--sheet"], &["photo.png"]),
        (&["sample", "run", "-n", "1", "-o", "q.png", "--sheet"], &["photo.png"]),
        (&["evaluate", "run", "-n", "1", "--draws", "1", "--metrics", "nll", "--plot"], &["photo.png"]),
        (
            &["evaluate", "run", "-n", "1", "--draws", "1", "--metrics", "nll", "--denoising"],
            &["run/data.json", weights],
        ),
        (&["evaluate", "run", "--metrics", "nearest", "--samples", "2", "--neighbours"], &["photo.png"]),
        (&["interpolate", "run", "photo.png", "photo.png", "-o"], &["photo.png"]),
    ];
    for (command, targets) in commands {
        for target in targets {
            let before = fs::read(place.path(target)).unwrap();
            let more: &[&str] = if matches!(command[0], "evaluate" | "classifier") { &images } else { &[] };
            fails(place.ddpm(&[command, &[*target], more].concat()), 1, &[target, "is a file from elsewhere"]);
            assert!(fs::read(place.path(target)).unwrap() == before, "{command:?} {target}");
        }
    }
    // Outputs of the same command are replaced.
    for _ in 0..2 {
        for command in [
            &["predict", "run", "-i", "in.safetensors", "-o", "out.safetensors"][..],
            &["invert", "run", "photo.png", "--steps", "2", "-o", "latents.safetensors", "--sheet", "there.png"],
            &[
                "evaluate",
                "run",
                "-n",
                "1",
                "--draws",
                "1",
                "--metrics",
                "nll",
                "--plot",
                "p.png",
                "--denoising",
                "d.json",
                "--data",
                "train-images-idx3-ubyte",
            ],
            &["classifier", "--steps", "1", "--data", "train-images-idx3-ubyte", "-o", "c.safetensors"],
        ] {
            place.ddpm(command).arg("-q").assert().success();
        }
    }
}
