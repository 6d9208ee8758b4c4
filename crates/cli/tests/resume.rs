//! Stopping and going on: by order, by force, after damage, after divergence, on a full disk.

use crate::common::*;
use assert_cmd::Command;
use ddpm::weights;
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Everything random: dropout, flips, dropped labels, accumulation and the importance sampler's memory.
const ALL: [&str; 12] = [
    "--set",
    "model.dropout=0.1",
    "--set",
    "data.flip=true",
    "--set",
    "data.labels=true",
    "--set",
    "train.label_dropout=0.2",
    "--set",
    "train.gradient_accumulation=2",
    "--set",
    "diffusion.timestep_sampler=importance",
];

#[test]
fn stopping_half_way_changes_no_byte() {
    let place = Place::new();
    place.trained("whole", 14, &ALL);
    // 7 is not a step at which a checkpoint is due, nor one at which a line is logged.
    place.trained("halves", 7, &ALL);
    place.resume("halves", 14, &[]).assert().success().stderr(contains("resumed: step 7 of 14"));
    assert_eq!(place.weights("whole", 14), place.weights("halves", 14));
    let sample = "samples/000000012.png";
    assert_eq!(
        fs::read(place.path("whole").join(sample)).unwrap(),
        fs::read(place.path("halves").join(sample)).unwrap()
    );
    let steps: Vec<_> = metrics(&place.path("halves")).iter().map(|r| r["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [2, 4, 6, 7, 8, 10, 12, 14]);
}

/// Channels enough for the fast convolutions (Winograd), which tiny networks do not reach.
#[test]
fn wide_networks_go_on_to_the_same_bytes_with_any_number_of_threads() {
    let place = Place::new();
    let wide = ["--set", "model.block_out_channels=[32,64]", "--set", "data.resolution=16", "--set", "data.fit=pad"];
    let wide = [&wide[..], &["--set", "model.attention_resolutions=[8]"]].concat();
    place.trained("whole", 6, &[&wide[..], &["--threads", "1"]].concat());
    place.trained("halves", 3, &[&wide[..], &["--threads", "4"]].concat());
    place.resume("halves", 6, &["--threads", "2"]).assert().success();
    assert_eq!(place.weights("whole", 6), place.weights("halves", 6));
    for (name, batch) in [("one", "1"), ("all", "5")] {
        let out = format!("{name}.safetensors");
        place
            .ddpm(&["sample", "whole", "-n", "5", "--steps", "4", "--batch-size", batch, "-o", &out])
            .assert()
            .success();
    }
    assert_eq!(
        weights::read_safetensors(place.path("one.safetensors")).unwrap().0,
        weights::read_safetensors(place.path("all.safetensors")).unwrap().0
    );
}

#[test]
fn a_finished_run_has_nothing_left_to_do() {
    let place = Place::new();
    place.trained("run", 4, &[]);
    let before = place.weights("run", 4);
    let result = json(place.ddpm(&["train", "--resume", "--out", "run"]));
    assert_eq!((&result["step"], &result["stopped"]), (&4.into(), &false.into()));
    assert_eq!(place.weights("run", 4), before);
}

#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_bytes() {
    let place = Place::new();
    let often = [&ALL[..], &["--set", "train.checkpoint_every=1"]].concat();
    let start = Instant::now();
    place.trained("whole", 20, &often);
    let whole = start.elapsed();

    let mut kills = 0;
    for (attempt, hundredths) in [10, 4, 17, 7, 13, 9, 21, 12].into_iter().enumerate() {
        let command = match place.path("killed/config.toml").exists() {
            true => place.resume("killed", 20, &["--quiet"]),
            false => {
                let mut command = place.train("killed", 20, &often);
                command.arg("--quiet");
                command
            }
        };
        let mut child = place.start(&command, "log");
        std::thread::sleep(whole * hundredths / 100);
        // SIGKILL on Unix. One that has ended already cannot be killed any more.
        kills += u32::from(child.0.try_wait().unwrap().is_none());
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        let log = fs::read_to_string(place.path("log")).unwrap();
        assert_eq!(log, "", "attempt {attempt}: whatever was killed is no error");
    }
    assert!(kills >= 3, "{kills} of the processes were killed while they ran");
    place.resume("killed", 20, &["--quiet"]).assert().success();
    assert_eq!(place.weights("whole", 20), place.weights("killed", 20));
    assert_eq!(place.checkpoints("killed"), ["000000019", "000000020", "latest"], "nothing half-written is left");
    let steps: Vec<_> = metrics(&place.path("killed")).iter().map(|r| r["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (2..=20).step_by(2).collect::<Vec<u64>>());
}

/// A process that dies in the middle of writing leaves a temporary folder; a copy that was interrupted a short file.
#[test]
fn a_damaged_checkpoint_is_named_and_skipped() {
    let place = Place::new();
    place.trained("whole", 12, &[]);
    let remove = |file: &Path| fs::remove_file(file).unwrap();
    let cut = |file: &Path| {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() - 20]).unwrap();
    };
    let flip = |file: &Path| {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    for (run, file) in [
        ("cut", "unet/diffusion_pytorch_model.safetensors"),
        ("flipped", "training/optimizer.safetensors"),
        ("gone", "training/weights.safetensors"),
        ("state", "training/state.json"),
        ("list", "checksums.json"),
        ("configuration", "training/config.toml"),
    ] {
        let damage = match run {
            "flipped" => flip,
            "gone" => remove,
            _ => cut as fn(&Path),
        };
        place.trained(run, 8, &[]);
        damage(&place.path(run).join("checkpoints/000000008").join(file));
        fs::create_dir(place.path(run).join("checkpoints/.000000012.tmp-1-2")).unwrap();
        let warned =
            contains("warning:").and(contains("checkpoints/000000008")).and(contains("this checkpoint is skipped"));
        let stderr = warned.and(contains(file)).and(contains("resumed: step 4 of 12"));
        place.resume(run, 12, &[]).assert().success().stderr(stderr);
        assert_eq!(place.weights("whole", 12), place.weights(run, 12), "{run}");
        assert_eq!(place.checkpoints(run), ["000000008", "000000012", "latest"]);
    }
}

#[test]
fn where_no_checkpoint_is_whole_nothing_begins_again() {
    let place = Place::new();
    place.trained("run", 8, &[]);
    for step in ["000000004", "000000008"] {
        fs::write(place.path("run/checkpoints").join(step).join("training/state.json"), "{").unwrap();
    }
    let before = files(&place.path("run"));
    fails(place.resume("run", 12, &[]), 1, &["run/checkpoints", "all checkpoints are corrupt (2)", "restore one"]);
    assert_eq!(files(&place.path("run")), before);
    assert_eq!(metrics(&place.path("run")).len(), 4);
}

#[cfg(unix)]
#[test]
fn signals_end_a_run_in_order() {
    let place = Place::new();
    place.trained("whole", 40, &ALL);
    for signal in ["TERM", "INT"] {
        // Many steps, so that it does not end by itself.
        let mut child = place.start(&place.train(signal, 1_000_000, &ALL), "log");
        wait_for(&place.path("log"), "step 2/");
        assert!(
            std::process::Command::new("kill")
                .args([format!("-{signal}"), child.0.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        let status = child.0.wait().unwrap();
        let log = fs::read_to_string(place.path("log")).unwrap();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("stopped at step") && log.contains("--resume"), "{log}");
        let step = ddpm::train::steps_done(&place.path(signal)).unwrap();
        assert!(log.contains(&format!("stopped at step {step}")), "{log}");
        if step < 40 {
            place.resume(signal, 40, &["--quiet"]).assert().success();
            assert_eq!(place.weights("whole", 40), place.weights(signal, 40));
        }
    }
}

/// The output of a stopped run can be pasted into a shell, whatever its folder is called.
#[cfg(unix)]
#[test]
fn the_way_to_resume_is_quoted() {
    let place = Place::new();
    let mut child = place.start(&place.train("it's my run", 1_000_000, &[]), "log");
    wait_for(&place.path("log"), "step 2/");
    assert!(std::process::Command::new("kill").arg(child.0.id().to_string()).status().unwrap().success());
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    let log = fs::read_to_string(place.path("log")).unwrap();
    assert!(log.contains(r"train -o 'it'\''s my run' --resume"), "{log}");
    let command = log.lines().find_map(|line| line.strip_prefix("continue:")).unwrap();
    let done = ddpm::train::steps_done(&place.path("it's my run")).unwrap();
    let script = format!("{command} --quiet --set train.steps={}", done + 2);
    let status = std::process::Command::new("sh").current_dir(place.path("")).args(["-c", &script]).status().unwrap();
    assert!(status.success());
    assert_eq!(ddpm::train::steps_done(&place.path("it's my run")), Some(done + 2));
}

/// A picture of samples may take minutes, which is longer than a cluster waits between SIGTERM and SIGKILL.
#[cfg(unix)]
#[test]
fn a_signal_does_not_wait_for_a_picture() {
    let place = Place::new();
    let slow = ["diffusion.timesteps=2000", "sample.steps=2000", "train.sample_every=1", "train.samples=4096"];
    let slow: Vec<&str> = slow.iter().flat_map(|set| ["--set", set]).collect();
    let mut child = place.start(&place.train("run", 3, &slow), "log");
    wait_for(&place.path("log"), "network:");
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    assert!(std::process::Command::new("kill").arg(child.0.id().to_string()).status().unwrap().success());
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(ddpm::train::steps_done(&place.path("run")).is_some());
}

/// Waits until a log has a word in it.
fn wait_for(log: &Path, word: &str) {
    let start = Instant::now();
    while !fs::read_to_string(log).unwrap_or_default().contains(word) {
        assert!(start.elapsed() < Duration::from_secs(60), "no `{word}` in {log:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn two_processes_do_not_train_in_one_folder() {
    let place = Place::new();
    let mut child = place.start(&place.train("run", 1_000_000, &[]), "log");
    wait_for(&place.path("log"), "step 2/");
    let error = fails(place.resume("run", 4, &[]), 1, &["run", "another process"]);
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    assert!(error.contains("choose another folder"), "{error}");
    // The lock goes with its process.
    let done = ddpm::train::steps_done(&place.path("run")).unwrap_or(0) as usize;
    place.resume("run", done + 4, &[]).assert().success();
}

/// Starts that find no run yet, all at once: each has a folder of its own, or is told of the other one.
#[test]
fn starts_at_the_same_time_do_not_share_a_folder() {
    let place = Place::new();
    let sets = TINY.iter().chain(&["train.steps=2"]).flat_map(|set| ["--set", set]);
    let default: Vec<&str> = ["train", "--data", "train-images-idx3-ubyte"].into_iter().chain(sets).collect();
    write_idx(&place.path("train-images-idx3-ubyte"), 40, 8);
    let mut all: Vec<Started> = (0..4).map(|i| place.start(&place.ddpm(&default), &format!("log{i}"))).collect();
    assert!(all.iter_mut().all(|started| started.0.wait().unwrap().success()));
    let runs = names(&place.path("runs"));
    assert_eq!(runs, ["fashion", "fashion-2", "fashion-3", "fashion-4"]);
    for run in runs {
        assert_eq!(ddpm::train::steps_done(&place.path("runs").join(run)), Some(2));
    }
    let mut all: Vec<Started> = (0..3).map(|i| place.start(&place.train("one", 2, &[]), &format!("log{i}"))).collect();
    let statuses: Vec<_> = all.iter_mut().map(|started| started.0.wait().unwrap().code()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == Some(0)).count(), 1, "{statuses:?}");
    for (i, _) in statuses.iter().enumerate().filter(|(_, status)| **status != Some(0)) {
        let log = fs::read_to_string(place.path(format!("log{i}"))).unwrap();
        assert!(log.contains("there is a run already") || log.contains("another process is training"), "{log}");
    }
}

/// A kill between writing a checkpoint and naming it leaves `latest` at the one before.
#[test]
fn the_newest_whole_checkpoint_is_read_where_latest_is_older() {
    let place = Place::new();
    place.trained("run", 8, &["--set", "train.keep_checkpoints=2"]);
    let latest = place.path("run/checkpoints/latest");
    fs::write(&latest, "000000004\n").unwrap();
    let inspect = |words: &'static str| {
        let output = place.ddpm(&["inspect", "run"]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(output.status.success() && text.contains(words), "{text}");
    };
    inspect("000000008, which is newer than run/checkpoints/000000004");
    // One that is damaged is not read.
    let damaged = place.path("run/checkpoints/000000008/unet/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&damaged).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() - 1]).unwrap();
    inspect("model:      run/checkpoints/000000004");
    fs::write(&damaged, &bytes).unwrap();
    // Resuming repairs it.
    place.resume("run", 8, &["-q"]).assert().success();
    assert_eq!(fs::read_to_string(&latest).unwrap(), "000000008\n");
    fs::write(place.path("run/checkpoints/best"), "000000002\n").unwrap();
    fails(place.ddpm(&["sample", "run/checkpoints/best", "-o", "x.png"]), 1, &["best", "000000002", "is gone"]);
}

/// A copy of a checkpoint under another name is not taken for one of the run's.
#[test]
fn copies_of_checkpoints_are_not_continued() {
    let place = Place::new();
    place.trained("run", 8, &["--set", "train.keep_checkpoints=2"]);
    let whole = place.weights("run", 8);
    let checkpoint = |name: &str| place.path("run/checkpoints").join(name);
    for name in ["000000030", "20261126", "4"] {
        fs::create_dir(checkpoint(name)).unwrap();
        for file in files(&checkpoint("000000004")) {
            fs::create_dir_all(checkpoint(name).join(&file).parent().unwrap()).unwrap();
            fs::copy(checkpoint("000000004").join(&file), checkpoint(name).join(&file)).unwrap();
        }
    }
    fs::create_dir(checkpoint("18446744073709551615")).unwrap();
    place.ddpm(&["inspect", "run"]).assert().success().stdout(contains("run/checkpoints/000000008"));
    let said = contains("resumed: step 8 of 12").and(contains("000000030")).and(contains("is of step 4"));
    place.resume("run", 12, &[]).assert().success().stderr(said);
    place.trained("other", 12, &[]);
    assert_eq!(place.weights("run", 12), place.weights("other", 12));
    assert_ne!(place.weights("run", 12), whole);
}

/// A checkpoint without write permission is kept.
#[cfg(unix)]
#[test]
fn a_read_only_checkpoint_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.trained("run", 4, &[]);
    let kept = place.path("run/checkpoints/000000004");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o555)).unwrap();
    place.resume("run", 16, &["-q", "--set", "train.keep_checkpoints=1"]).assert().success();
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(place.checkpoints("run"), ["000000004", "000000016", "latest"]);
}

/// Numbers that no run has, in a state whose checksums were removed.
#[test]
fn a_state_of_impossible_numbers_is_refused() {
    let place = Place::new();
    place.trained("run", 4, &[]);
    let path = place.path("run/checkpoints/000000004/training/state.json");
    fs::remove_file(place.path("run/checkpoints/000000004/checksums.json")).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    for key in ["step", "updates", "skipped"] {
        for number in ["18446744073709551615", "9223372036854775808", "5"] {
            let before = text.lines().find(|line| line.contains(&format!("\"{key}\":"))).unwrap();
            fs::write(&path, text.replace(before, &format!("  \"{key}\": {number},"))).unwrap();
            if (key, number) != ("skipped", "5") {
                let output = place.resume("run", 6, &[]).output().unwrap();
                let error = String::from_utf8(output.stderr).unwrap();
                assert_eq!(output.status.code(), Some(1), "{key} {number}: {error}");
                assert!(error.contains("state.json") && !error.contains("panicked"), "{key} {number}: {error}");
            }
        }
    }
}

/// A run that keeps one checkpoint removes the one before as soon as it has a new one.
#[test]
fn a_reader_that_loses_its_checkpoint_looks_again() {
    let place = Place::new();
    let fast = ["train.checkpoint_every=1", "train.keep_checkpoints=1", "train.samples=0", "train.log_every=1000"];
    let fast: Vec<&str> = fast.iter().flat_map(|set| ["--set", set]).collect();
    let _child = place.start(&place.train("run", 1_000_000, &fast), "log");
    let start = Instant::now();
    while ddpm::train::steps_done(&place.path("run")).is_none() {
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    let device = ddpm::Device::flex();
    for _ in 0..300 {
        ddpm::Pipeline::load(place.path("run"), &device).unwrap();
    }
    // The readers and the run were there at the same time. Between listing and reading a name, its folder may be removed.
    while ddpm::train::steps_done(&place.path("run")).is_none_or(|steps| steps <= 20) {
        assert!(start.elapsed() < Duration::from_secs(60), "the run does not go on");
    }
}

/// `nohup` ignores SIGHUP, and a terminal that is closed sends it.
#[cfg(unix)]
#[test]
fn a_signal_that_is_ignored_from_the_start_stays_ignored() {
    let place = Place::new();
    for (script, survives) in [("trap '' HUP; exec \"$@\"", true), ("exec \"$@\"", false)] {
        let train = place.train(if survives { "nohup" } else { "run" }, 1_000_000, &[]);
        let mut command = Command::new("sh");
        command.args(["-c", script, "-"]).arg(train.get_program()).args(train.get_args());
        let mut child = place.start(&command, "log");
        wait_for(&place.path("log"), "step 2/");
        let signal = |name: &str| {
            let status = std::process::Command::new("kill").args([name, &child.0.id().to_string()]).status();
            assert!(status.unwrap().success());
        };
        signal("-HUP");
        if survives {
            std::thread::sleep(Duration::from_millis(300));
            assert!(!fs::read_to_string(place.path("log")).unwrap().contains("finishing"), "it stops");
            signal("-TERM");
        }
        assert_eq!(child.0.wait().unwrap().code(), Some(0));
        assert!(fs::read_to_string(place.path("log")).unwrap().contains("stopped at step"));
    }
}

/// `ulimit -f` sends a signal, which ends a program without a word unless it is handled.
#[cfg(unix)]
#[test]
fn a_limit_on_the_size_of_files_is_an_error_of_the_file() {
    let place = Place::new();
    let train = place.train("run", 4, &["-q"]);
    let mut command = Command::new("bash");
    command.current_dir(place.path("")).args(["-c", "ulimit -f 8; exec \"$@\"", "-"]);
    command.arg(train.get_program()).args(train.get_args());
    fails(command, 1, &["run/checkpoints/", "safetensors", "File too large"]);
    // Nothing half-written is left, and the run can go on.
    assert_eq!(ddpm::train::steps_done(&place.path("run")), None);
    place.resume("run", 4, &["-q"]).assert().success();
}

#[test]
fn what_does_not_fit_the_run_changes_nothing() {
    let place = Place::new();
    place.trained("run", 4, &[]);
    let before = (fs::read(place.path("run/config.toml")).unwrap(), files(&place.path("run")));
    let other = ["--set", "model.block_out_channels=[16,8]"];
    fails(
        place.resume("run", 8, &other),
        1,
        &["run", "`model.block_out_channels` [8, 8] → [16, 8]", "train.init_from"],
    );
    fails(place.resume("run", 8, &["--data", "nowhere"]), 1, &["nowhere"]);
    fails(place.resume("run", 8, &["--preset", "mnist"]), 2, &["--resume"]);
    fails(place.train("run", 8, &[]), 1, &["run", "there is a run already (4 steps)", "--resume", "--output"]);
    assert_eq!(before, (fs::read(place.path("run/config.toml")).unwrap(), files(&place.path("run"))));
    place.resume("run", 8, &["--quiet"]).assert().success();
}

/// The keys of a run whose first step throws the weights out of any range.
const DIVERGE: [&str; 6] =
    ["--set", "train.learning_rate=1e30", "--set", "train.grad_clip=0", "--set", "train.nonfinite_limit=3"];

#[test]
fn divergence_without_a_checkpoint_ends_with_advice() {
    let place = Place::new();
    let command = place.train("run", 30, &DIVERGE);
    fails(command, 1, &["3 steps in a row", "no checkpoint", "train.learning_rate", "train.grad_clip"]);
    assert_eq!(place.checkpoints("run"), [""; 0]);
}

#[test]
fn divergence_rolls_back_and_keeps_the_last_good_checkpoint() {
    let place = Place::new();
    place.trained("run", 4, &["--set", "train.checkpoint_every=1", "--set", "train.keep_checkpoints=2"]);
    let good = place.weights("run", 4);
    let output = place.resume("run", 40, &DIVERGE).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    // Step 5 is the one that spoils the weights, while its own loss is still finite. The checkpoint that was due there is
    // not written.
    assert!(error.contains("step 5: the network is not usable"), "{error}");
    let back = "back to step 4 with half the learning rate";
    assert_eq!(error.matches(back).count(), 8, "{error}");
    let last = error.lines().last().unwrap();
    assert!(last.starts_with("error: training diverged 9 times") && last.contains("train.learning_rate"), "{error}");
    assert_eq!(place.checkpoints("run"), ["000000003", "000000004", "latest"]);
    assert_eq!(fs::read_to_string(place.path("run/checkpoints/latest")).unwrap().trim(), "000000004");
    assert_eq!(place.weights("run", 4), good);
    assert!(metrics(&place.path("run")).iter().all(|record| record["loss"].as_f64().unwrap() > 0.0));
    // What the message advises.
    let sane = ["--set", "train.learning_rate=1e-3", "--set", "train.grad_clip=1", "-q"];
    place.resume("run", 6, &sane).assert().success().stderr("");
    assert_eq!(metrics(&place.path("run")).last().unwrap()["learning_rate"], 1e-3);
}

#[test]
fn a_run_whose_last_step_spoils_it_does_not_succeed() {
    let place = Place::new();
    place.trained("run", 4, &[]);
    let before = place.weights("run", 4);
    // No step after the fifth would tell.
    fails(
        place.resume("run", 5, &[&DIVERGE[..], &["-q"]].concat()),
        1,
        &["training diverged 9 times", "learning_rate"],
    );
    assert_eq!(place.checkpoints("run"), ["000000004", "latest"]);
    assert_eq!(place.weights("run", 4), before);
    place.ddpm(&["sample", "run", "-n", "1", "-o", "one.png", "-q"]).assert().success();
    // An earlier version of the program could write such a checkpoint.
    let spoiled = place.path("run/checkpoints/000000004/training/weights.safetensors");
    let (mut tensors, metadata) = weights::read_safetensors(&spoiled).unwrap();
    tensors.values_mut().next().unwrap().data[0] = f32::NAN;
    weights::write_safetensors(&spoiled, weights::views(&tensors), &metadata).unwrap();
    fs::remove_file(place.path("run/checkpoints/000000004/checksums.json")).unwrap();
    fails(place.resume("run", 5, &["-q"]), 1, &["all checkpoints are corrupt"]);
    place.resume("run", 5, &[]).assert().failure().stderr(contains("training diverged").and(contains("not finite")));
}

/// Roll-backs halve the learning rate, until it is set.
#[test]
fn a_learning_rate_that_is_set_means_what_it_says() {
    let place = Place::new();
    place.trained("run", 4, &[]);
    let state = place.path("run/checkpoints/000000004/training/state.json");
    let text = fs::read_to_string(&state).unwrap();
    for (before, after) in [("\"rollbacks\": 0", "\"rollbacks\": 2"), ("\"halvings\": null", "\"halvings\": 1")] {
        assert!(text.contains(before), "{text}");
        fs::write(&state, fs::read_to_string(&state).unwrap().replace(before, after)).unwrap();
    }
    fs::remove_file(place.path("run/checkpoints/000000004/checksums.json")).unwrap();
    let rate = || metrics(&place.path("run")).last().unwrap()["learning_rate"].as_f64().unwrap();
    let configured = rate();
    let said = contains("after 2 roll-backs").and(contains("train.learning_rate="));
    place.resume("run", 6, &[]).assert().success().stderr(said);
    assert_eq!(rate(), configured / 2.0);
    // Another key leaves it as it is.
    place.resume("run", 8, &["--set", "train.log_every=1"]).assert().success();
    assert_eq!(rate(), configured / 2.0);
    let same = format!("train.learning_rate={configured}");
    place.resume("run", 10, &["--set", &same, "-q"]).assert().success().stderr("");
    assert_eq!(rate(), configured);
}

#[test]
fn a_roll_back_with_a_smaller_learning_rate_can_save_a_run() {
    let place = Place::new();
    place.trained("run", 4, &["--set", "train.checkpoint_every=20"]);
    let sets = ["train.learning_rate=3e3", "train.grad_clip=0", "train.nonfinite_limit=1", "train.samples=0"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    place.resume("run", 6, &sets).assert().success().stderr(contains("back to step 4"));
    let state = fs::read(place.path("run/checkpoints/000000006/training/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    assert!((1..=8).contains(&state["rollbacks"].as_u64().unwrap()), "{state}");
    assert!(state["skipped"].as_u64().unwrap() >= 1, "{state}");
}

/// A file system in memory of so many KiB, where the system lets us mount one.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(folder: &'a Path, kilobytes: usize) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let size = format!("size={kilobytes}k");
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("skipped: mounting a small file system needs root on Linux");
        None
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(std::process::Command::new("mount").args(["-o", &options]).arg(self.0).status().unwrap().success());
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_ends_a_run_and_costs_nothing() {
    let place = Place::new();
    place.trained("whole", 12, &[]);
    let size: usize = files(&place.path("whole/checkpoints/000000008")).len();
    assert_eq!(size, 10);
    let bytes: u64 = files(&place.path("whole/checkpoints/000000008"))
        .iter()
        .map(|file| {
            fs::metadata(place.path("whole/checkpoints/000000008").join(file)).unwrap().len().div_ceil(4096) * 4
        })
        .sum();
    // One checkpoint and all else fits, two do not.
    let folder = place.path("disk");
    let Some(disk) = Disk::mount(&folder, (bytes + bytes / 2 + 120) as usize) else {
        return;
    };
    let run = "disk/run";
    fails(place.train(run, 12, &[]), 1, &["disk/run/checkpoints", "No space left"]);
    assert_eq!(place.checkpoints(run), ["000000004", "latest"]);
    json(place.ddpm(&["inspect", run]));
    place.ddpm(&["sample", run, "-n", "1", "--steps", "2", "--quiet"]).assert().success();
    fails(place.resume(run, 12, &[]), 1, &["No space left"]);
    disk.remount("size=20m");
    place.resume(run, 12, &["--quiet"]).assert().success();
    assert_eq!(place.weights("whole", 12), place.weights(run, 12));

    disk.remount("ro");
    fails(place.resume(run, 16, &[]), 1, &[run, "Read-only"]);
    fails(place.train("disk/other", 4, &[]), 1, &["disk/other", "Read-only"]);
    fails(place.ddpm(&["sample", run, "--steps", "2", "-o", "disk/x.png"]), 1, &["disk", "Read-only"]);
}

/// A resumed run keeps the keys that its weights depend on, and takes the others from the user.
#[test]
fn a_changed_meaning_of_the_weights_is_refused_by_key() {
    let place = Place::new();
    place.trained("run", 4, &[]);
    let before = (fs::read(place.path("run/config.toml")).unwrap(), files(&place.path("run")));
    for (set, change) in [
        ("diffusion.schedule=cosine", "`diffusion.schedule` \"linear\" → \"squaredcos_cap_v2\""),
        ("diffusion.prediction=v_prediction", "`diffusion.prediction` \"epsilon\" → \"v_prediction\""),
        ("diffusion.timesteps=100", "`diffusion.timesteps` 50 → 100"),
        ("diffusion.beta_end=0.03", "`diffusion.beta_end` 0.02 → 0.03"),
        ("diffusion.variance=fixed_small", "`diffusion.variance` \"fixed_large\" → \"fixed_small\""),
        ("data.resolution=[8,16]", "`data.resolution` 8 → [8, 16]"),
        ("data.channels=3", "`data.channels` 1 → 3"),
        ("data.labels=true", "`data.labels` false → true"),
        ("model.norm_eps=1e-5", "`model.norm_eps` 1e-6 → 1e-5"),
    ] {
        let words = ["run: a resumed run cannot change", change, "trained with the old value", "`train.init_from`"];
        fails(place.resume("run", 8, &["--set", set]), 1, &words);
    }
    let both = ["--set", "diffusion.timesteps=100", "--set", "diffusion.prediction=sample"];
    fails(place.resume("run", 8, &both), 1, &["`diffusion.timesteps`", "`diffusion.prediction`"]);
    assert_eq!(before, (fs::read(place.path("run/config.toml")).unwrap(), files(&place.path("run"))));

    // A configuration that was edited by hand is compared with that of the checkpoint.
    let text = String::from_utf8(before.0).unwrap();
    for (old, new, key) in [
        ("schedule = \"linear\"", "schedule = \"squaredcos_cap_v2\"", "`diffusion.schedule`"),
        ("variance = \"fixed_large\"", "variance = \"fixed_small\"", "`diffusion.variance`"),
        ("[data]\n", "[data]\nrange = [0, 1]\n", "`data.range`"),
    ] {
        assert!(text.contains(old), "{text}");
        fs::write(place.path("run/config.toml"), text.replace(old, new)).unwrap();
        fails(place.resume("run", 8, &[]), 1, &["run: a resumed run cannot change", key]);
    }
    // Older checkpoints have none; they are compared by their chain.
    fs::remove_file(place.path("run/checkpoints/000000004/training/config.toml")).unwrap();
    fs::remove_file(place.path("run/checkpoints/000000004/checksums.json")).unwrap();
    fs::write(place.path("run/config.toml"), text.replace("\"linear\"", "\"squaredcos_cap_v2\"")).unwrap();
    let words = ["run", "diffusion.schedule linear from 0.0001 to 0.02 → squaredcos_cap_v2", "checkpoint"];
    fails(place.resume("run", 8, &[]), 1, &words);
}

#[test]
fn changed_choices_are_printed_and_recorded() {
    let place = Place::new();
    place.trained("run", 4, &[]);
    let sets = ["train.learning_rate=1e-4", "train.batch_size=2", "diffusion.loss=min_snr", "train.ema_decay=0.9"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let said = contains("changed: train.learning_rate 0.001 → 0.0001\n")
        .and(contains("changed: train.batch_size 4 → 2\n"))
        .and(contains("changed: diffusion.loss \"l_simple\" → \"min_snr\"\n"))
        .and(contains("changed: train.steps 4 → 8\n"))
        .and(contains("warning").not());
    place.resume("run", 8, &sets).assert().success().stderr(said);
    let records = metrics(&place.path("run"));
    let changed: Vec<&serde_json::Value> = records.iter().map(|record| &record["changed"]).collect();
    assert!(changed[0].is_null() && changed[1].is_null() && changed[3].is_null(), "{changed:?}");
    assert_eq!(changed[2]["train.learning_rate"], serde_json::json!(["0.001", "0.0001"]));
    assert_eq!(changed[2].as_object().unwrap().len(), 5, "{changed:?}");
    // Unchanged, nothing is said; and the record stays.
    place.resume("run", 8, &[]).assert().success().stderr(contains("changed:").not());
    assert_eq!(metrics(&place.path("run"))[2]["changed"]["train.batch_size"], serde_json::json!(["4", "2"]));
}

#[test]
fn fewer_steps_than_done_are_refused() {
    let place = Place::new();
    place.trained("run", 6, &[]);
    let before = fs::read(place.path("run/config.toml")).unwrap();
    fails(place.resume("run", 4, &[]), 1, &["run", "`train.steps` is 4", "has done 6 steps", "6 or more"]);
    assert_eq!(fs::read(place.path("run/config.toml")).unwrap(), before);
}

/// The path of the images is relative to the folder in which the run began.
#[test]
fn a_run_finds_its_images_from_another_folder() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    let from = |folder: &str, run: &str, steps: usize| {
        let mut command = place.resume(run, steps, &["--quiet"]);
        command.current_dir(place.path(folder));
        command
    };
    fs::create_dir(place.path("elsewhere")).unwrap();
    from("elsewhere", "../run", 3).assert().success().stderr("");
    // Run and images were moved together.
    fs::create_dir(place.path("moved")).unwrap();
    for name in ["run", "train-images-idx3-ubyte", "train-labels-idx1-ubyte"] {
        fs::rename(place.path(name), place.path("moved").join(name)).unwrap();
    }
    from(".", "moved/run", 4).assert().success().stderr("");
    // Without them.
    fs::rename(place.path("moved/train-images-idx3-ubyte"), place.path("images")).unwrap();
    fails(from(".", "moved/run", 5), 1, &["train-images-idx3-ubyte", "are not there", "--data"]);
    assert_eq!(place.checkpoints("moved/run").last().unwrap(), "latest");
    assert_eq!(ddpm::train::steps_done(&place.path("moved/run")), Some(4));
}

#[test]
fn other_images_are_a_warning() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    let warning = "warning: the images are not those that the run was trained on: ";
    // The same images from another place are the same.
    fs::create_dir(place.path("copy")).unwrap();
    for file in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"] {
        fs::copy(place.path(file), place.path("copy").join(file)).unwrap();
    }
    place
        .resume("run", 3, &["--data", "copy/train-images-idx3-ubyte"])
        .assert()
        .success()
        .stderr(contains(warning).not());
    // One pixel of the second image.
    let mut bytes = fs::read(place.path("copy/train-images-idx3-ubyte")).unwrap();
    bytes[16 + 64] ^= 1;
    fs::write(place.path("copy/train-images-idx3-ubyte"), bytes).unwrap();
    let other = contains(format!("{warning}other pixels or labels\n"));
    place.resume("run", 4, &[]).assert().success().stderr(other);
    // An evaluation compares some of the images, such as the first.
    let evaluate = ["evaluate", "run", "--train", "-n", "2"];
    let other_than = "the images are not those that the model was trained on: other pixels or labels";
    place.ddpm(&evaluate).assert().success().stderr(contains(other_than).not());
    let path = place.path("copy/train-images-idx3-ubyte");
    let (right, mut wrong) = (fs::read(&path).unwrap(), fs::read(&path).unwrap());
    wrong[16] ^= 1;
    fs::write(&path, wrong).unwrap();
    place.ddpm(&evaluate).assert().success().stderr(contains(other_than));
    fs::write(&path, right).unwrap();
    // Said once: the run has been trained on them by then.
    place.resume("run", 5, &[]).assert().success().stderr(contains(warning).not());
    write_pngs(&place.path("few"), 8, 8, image::ColorType::L8);
    let fewer = contains(format!("{warning}6 images instead of 40, 0 classes instead of 3\n"));
    place.resume("run", 6, &["--data", "few", "--quiet"]).assert().success().stderr(fewer);

    // A checkpoint that predates the digest.
    let root = place.path("run/checkpoints/000000006");
    let state = root.join("training/state.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("images").unwrap();
    fs::write(&state, value.to_string()).unwrap();
    fs::remove_file(root.join("checksums.json")).unwrap();
    let same = ["--data", "train-images-idx3-ubyte"];
    place.resume("run", 7, &same).assert().success().stderr(contains(warning).not());
}
