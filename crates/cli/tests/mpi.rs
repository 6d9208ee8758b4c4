//! Several ranks under `mpirun`: the same bytes for any number of them, and ends that lose nothing.
//!
//! They need an MPI: `apt-get install openmpi-bin`, then
//! `cargo test --release --workspace --test cli mpi:: -- --ignored --test-threads=1`. `MPIRUN` names another launcher.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::*;
use serde_json::Value;

/// Everything random, with a number of passes that only 1 and 5 ranks divide.
const ALL: [&str; 9] = [
    "model.dropout=0.1",
    "data.flip=true",
    "data.labels=true",
    "train.label_dropout=0.2",
    "train.gradient_accumulation=5",
    "diffusion.timestep_sampler=importance",
    "train.evaluate_every=4",
    "train.evaluate_images=3",
    "train.log_every=1",
];

fn sets(keys: &[&str]) -> Vec<String> {
    keys.iter().flat_map(|key| ["--set".to_owned(), (*key).to_owned()]).collect()
}

/// The launcher with `ranks` ranks of one thread each, or nothing.
fn launcher(ranks: usize) -> Vec<String> {
    let mpirun = std::env::var("MPIRUN").unwrap_or_else(|_| "mpirun".into());
    let version = Command::new(&mpirun).arg("--version").output();
    let version = version.unwrap_or_else(|error| panic!("{mpirun}: {error}; install an MPI, such as openmpi-bin"));
    let is_open_mpi = String::from_utf8_lossy(&version.stdout).contains("Open MPI");
    let mut words = vec![mpirun, "-n".into(), ranks.to_string()];
    if is_open_mpi {
        words.extend(["--oversubscribe", "--bind-to", "none", "--allow-run-as-root"].map(str::to_owned));
    }
    words
}

/// `ddpm` with these arguments on so many ranks; 0 is without a launcher.
fn ddpm(place: &Place, ranks: usize, arguments: &[String]) -> Command {
    let mut words = if ranks == 0 { Vec::new() } else { launcher(ranks) };
    words.push(env!("CARGO_BIN_EXE_ddpm").into());
    words.extend_from_slice(arguments);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(place.path(".")).stdin(Stdio::null());
    command
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Training images with two classes, in train/ and test/.
fn images(place: &Place) {
    for (part, n) in [("train", 30), ("test", 6)] {
        for i in 0..n {
            let folder = place.path(format!("photos/{part}/{}", ["cats", "dogs"][i % 2]));
            fs::create_dir_all(&folder).unwrap();
            let pixels: Vec<u8> = (0..64).map(|j| ((i * 37 + j * 11) % 256) as u8).collect();
            image::save_buffer(folder.join(format!("{i}.png")), &pixels, 8, 8, image::ColorType::L8).unwrap();
        }
    }
}

/// Arguments of a tiny run of 8 steps.
fn training(out: &str, steps: usize, keys: &[&str]) -> Vec<String> {
    let mut arguments = words(&format!("train --out {out} --data photos --set train.steps={steps}"));
    arguments.extend(sets(&TINY));
    arguments.extend(sets(keys));
    arguments
}

fn succeed(place: &Place, ranks: usize, arguments: &[String]) -> Output {
    let output = ddpm(place, ranks, arguments).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{ranks} ranks, {}: {message}", arguments.join(" "));
    output
}

/// All that a run leaves and that no clock determines: files by name, the log and the state without their times, and without
/// what says that a run was resumed.
fn result(place: &Place, run: &str) -> BTreeMap<String, Vec<u8>> {
    let root = place.path(run);
    let timed = ["events.out", "checksums.json", "loss.png", "bits_per_dim.png"];
    let files = files(&root).into_iter().filter(|name| !timed.iter().any(|part| name.contains(part)));
    let read = |name: String| {
        let bytes = fs::read(root.join(&name)).unwrap();
        let without_times = |line: &[u8]| {
            let mut value: Value = serde_json::from_slice(line).unwrap();
            for key in ["seconds", "images_per_second", "attempts", "halvings"] {
                value.as_object_mut().unwrap().remove(key);
            }
            format!("{value}\n").into_bytes()
        };
        let bytes = match &*name {
            "metrics.jsonl" => bytes.split(|&b| b == b'\n').filter(|l| !l.is_empty()).flat_map(without_times).collect(),
            name if name.ends_with("state.json") => without_times(&bytes),
            _ => bytes,
        };
        (name, bytes)
    };
    files.map(read).collect()
}

fn assert_same(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>, what: &str) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in a {
        assert!(*bytes == b[name], "{what}: {name} differs");
    }
}

/// Waits for a process, which must end in time.
fn wait(mut child: Child, limit: Duration, what: &str) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            panic!("{what}: still running after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(mut command: Command, log: &Path) -> Child {
    let file = fs::File::create(log).unwrap();
    command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap()
}

/// Waits until a file holds a text.
fn until(path: &Path, text: &str) {
    let start = Instant::now();
    while !fs::read_to_string(path).unwrap_or_default().contains(text) {
        assert!(start.elapsed() < Duration::from_secs(60), "{text} is not in {}", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes of the program that a launcher started, and the ranks of them.
fn ranks_of(launcher: u32) -> BTreeMap<usize, i32> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let variable = |name: &str| {
            let all = environment.split(|&b| b == 0).map(String::from_utf8_lossy);
            all.into_iter().find_map(|one| one.strip_prefix(name).map(str::to_owned))
        };
        let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let is_ours = program == Path::new(env!("CARGO_BIN_EXE_ddpm")) && descends(pid, launcher as i32);
        let rank = variable("OMPI_COMM_WORLD_RANK=").or_else(|| variable("PMI_RANK="));
        if let (true, Some(rank)) = (is_ours, rank) {
            found.insert(rank.parse().unwrap(), pid);
        }
    }
    found
}

fn descends(mut pid: i32, ancestor: i32) -> bool {
    while pid > 1 {
        if pid == ancestor {
            return true;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some(parent) = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok()) else {
            return false;
        };
        pid = parent;
    }
    false
}

fn signal(pid: i32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "needs mpirun"]
fn any_number_of_ranks_trains_the_same_bytes() {
    let place = Place::new();
    images(&place);
    for (kind, more) in [("plain", &[][..]), ("checkpointed", &["train.gradient_checkpointing=true"])] {
        let run = |ranks: usize| {
            let out = format!("{kind}-{ranks}");
            let arguments = training(&out, 8, &[&ALL[..], more].concat());
            let output = succeed(&place, ranks, &[arguments, words("--quiet")].concat());
            assert_eq!(String::from_utf8_lossy(&output.stdout), "");
            result(&place, &out)
        };
        let alone = run(0);
        assert_eq!(alone.keys().filter(|name| name.ends_with(".safetensors")).count(), 6);
        for ranks in 1..=5 {
            assert_same(&alone, &run(ranks), &format!("{kind}, {ranks} ranks"));
        }
    }
}

#[test]
#[ignore = "needs mpirun"]
fn a_run_that_was_stopped_on_some_ranks_continues_on_others() {
    let place = Place::new();
    images(&place);
    // Nothing but the stop saves a checkpoint.
    let keys = [&ALL[..], &["train.evaluate_every=0", "train.checkpoint_every=0", "train.sample_every=0"]].concat();
    succeed(&place, 0, &training("whole", 12, &keys));
    let whole = result(&place, "whole");
    for (name, signalled) in [("TERM", None), ("USR1", Some(2)), ("INT", Some(0))] {
        let out = format!("stopped-{name}");
        let log = place.path(format!("{name}.log"));
        // Steps without end, so that the signal comes in time.
        let child = start(ddpm(&place, 4, &training(&out, 100_000, &keys)), &log);
        until(&log, "step 3/");
        // To the launcher, which passes it on, or to one rank alone.
        let pid = match signalled {
            None => child.id() as i32,
            Some(rank) => ranks_of(child.id())[&rank],
        };
        signal(pid, name);
        wait(child, Duration::from_secs(30), name);
        // Open MPI's launcher prints nothing more when it gets a SIGTERM itself.
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.contains("stopped at step") || name == "TERM", "{name}: {text}");
        let step = steps_done(&place, &out);
        let resume = |ranks, steps: u64| {
            let resume = format!("train --resume --out {out} --set train.steps={steps}");
            succeed(&place, ranks, &words(&resume));
        };
        if step < 12 {
            resume(2, 12);
            let found = result(&place, &out);
            for (file, bytes) in whole.iter().filter(|(file, _)| file.contains("000000012") && !file.contains("config"))
            {
                let with_state = !file.ends_with("state.json");
                assert!(!with_state || *bytes == found[file], "{name}: {file} differs");
            }
        } else {
            // A machine that is fast at the wrong moment: it still has to go on.
            resume(1, step + 2);
        }
    }
}

fn steps_done(place: &Place, out: &str) -> u64 {
    fs::read_to_string(place.path(out).join("checkpoints/latest")).unwrap().trim().parse().unwrap()
}

/// At several moments of a run: in passes, in reductions (which take much of the time of this network), while it validates
/// and while it saves.
#[test]
#[ignore = "needs mpirun"]
fn a_rank_that_is_killed_ends_the_job_and_loses_little() {
    let place = Place::new();
    images(&place);
    let wide = ["model.block_out_channels=[32,96]", "model.norm_num_groups=32", "train.keep_checkpoints=1000"];
    let keys = [&ALL[..], &wide, &["train.checkpoint_every=2", "train.sample_every=0"]].concat();
    for victim in 0..6 {
        let rank = victim % 3;
        let out = format!("killed-{victim}");
        let log = place.path(format!("{victim}.log"));
        // Steps without end, so that the kill comes in time.
        let child = start(ddpm(&place, 3, &training(&out, 100_000, &keys)), &log);
        until(&log, "step 3/");
        std::thread::sleep(Duration::from_millis(37 * victim as u64 % 190));
        let Some(&pid) = ranks_of(child.id()).get(&rank) else {
            panic!("{victim}: {}", fs::read_to_string(&log).unwrap());
        };
        signal(pid, "KILL");
        let status = wait(child, Duration::from_secs(20), &format!("rank {rank} was killed"));
        assert!(!status.success());
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.contains(&format!("rank {rank}")) || text.contains("KILLED BY SIGNAL"), "{text}");
        assert!(steps_done(&place, &out) >= 2, "{text}");
        let steps = steps_done(&place, &out) + 3;
        succeed(&place, 2, &words(&format!("train --resume --out {out} --set train.steps={steps}")));
        let whole = format!("whole-{victim}");
        succeed(&place, 0, &training(&whole, steps as usize, &keys));
        let whole = result(&place, &whole);
        for (file, bytes) in result(&place, &out).iter().filter(|(file, _)| file.contains(&format!("{steps:09}"))) {
            assert!(*bytes == whole[file], "rank {rank} was killed: {file} differs");
        }
    }
}

/// An error of one rank ends all of them, with its text and its rank.
#[test]
#[ignore = "needs mpirun"]
fn errors_end_the_job_with_one_line() {
    let place = Place::new();
    images(&place);
    let fail = |ranks: usize, arguments: &[String]| {
        let started = Instant::now();
        let output = ddpm(&place, ranks, arguments).output().unwrap();
        assert!(!output.status.success() && output.status.signal().is_none());
        assert!(started.elapsed() < Duration::from_secs(20));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let errors =
        |text: &str| text.lines().filter(|line| line.contains("error:")).map(str::to_owned).collect::<Vec<_>>();
    // The same error of all ranks is one line.
    let text = fail(3, &training("few", 4, &["train.gradient_accumulation=2"]));
    assert!(errors(&text)[0].starts_with("error: 3 ranks, but a step has 2 passes"), "{text}");
    assert_eq!(errors(&text).len(), 1, "{text}");
    let text = fail(2, &words("train --set train.batch_sizes=4"));
    assert_eq!(errors(&text).len(), 1, "{text}");
    let text = fail(2, &words("train --nonsense"));
    assert_eq!(errors(&text).len(), 1, "{text}");
    let mut one_mistake = ddpm(&place, 1, &training("one", 4, &["train.gradient_accumulation=2"]));
    one_mistake.args([":", "-n", "1", env!("CARGO_BIN_EXE_ddpm"), "train", "--nonsense"]);
    let output = one_mistake.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("rank 1: error: unexpected argument"), "{text}");
    let text = fail(2, &words("import x -o y"));
    assert!(text.contains("does not divide its work"), "{text}");
    assert!(!place.path("few").exists());
    // Ranks that do not do the same work.
    let mut differing = ddpm(&place, 1, &training("differing", 4, &["train.gradient_accumulation=2"]));
    let other = training("differing", 4, &["train.gradient_accumulation=2", "train.seed=5"]);
    differing.args([":", "-n", "1", env!("CARGO_BIN_EXE_ddpm")]).args(other);
    let output = differing.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("rank 1 has another configuration than rank 0: train.seed 0 → 5"), "{text}");
    fs::create_dir_all(place.path("other")).unwrap();
    let mut copy = Command::new("cp");
    copy.args(["-r", "photos/train", "photos/test", "other/"]).current_dir(place.path("."));
    assert!(copy.status().unwrap().success());
    fs::remove_file(place.path("other/train/cats/0.png")).unwrap();
    let mut differing = ddpm(&place, 1, &training("differing", 4, &["train.gradient_accumulation=2"]));
    let mut other = training("differing", 4, &["train.gradient_accumulation=2"]);
    *other.iter_mut().find(|word| *word == "photos").unwrap() = "other".into();
    differing.args([":", "-n", "1", env!("CARGO_BIN_EXE_ddpm")]).args(other);
    let output = differing.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("rank 1 has other images than rank 0: 29 images instead of 30"), "{text}");
    assert!(!place.path("differing").exists());
    // An error of one rank only.
    let mut one_fails = ddpm(&place, 1, &training("one", 4, &["train.gradient_accumulation=2"]));
    let mut other = training("one", 4, &["train.gradient_accumulation=2"]);
    *other.iter_mut().find(|word| *word == "photos").unwrap() = "nowhere".into();
    one_fails.args([":", "-n", "1", env!("CARGO_BIN_EXE_ddpm")]).args(other);
    let output = one_fails.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("rank 1: error: ") && text.contains("nowhere"), "{text}");
}

/// A full disk on rank 0, in the log, a checkpoint and a sample grid.
#[test]
#[ignore = "needs mpirun"]
fn a_full_disk_on_rank_0_ends_the_job() {
    let place = Place::new();
    images(&place);
    let keys = [&ALL[..], &["train.checkpoint_every=2"]].concat();
    succeed(&place, 2, &training("whole", 8, &keys));
    let whole = result(&place, "whole");
    // Files of rank 0 may grow to some blocks of 512 bytes only; the shared memory of MPI lies elsewhere.
    for (blocks, out) in [(1, "tiny"), (24, "small"), (80, "some")] {
        let mut shell = ddpm(&place, 1, &[]);
        let program = shell.get_program().to_owned();
        let mut arguments: Vec<_> = shell.get_args().map(ToOwned::to_owned).collect();
        let ddpm = arguments.pop().unwrap();
        shell = Command::new(program);
        shell.current_dir(place.path(".")).args(&arguments).args(["sh", "-c"]);
        shell.arg(format!("ulimit -f {blocks}; exec \"$0\" \"$@\"")).arg(&ddpm).args(training(out, 8, &keys));
        shell.args([":", "-n", "1"]).arg(&ddpm).args(training(out, 8, &keys));
        // Open MPI would map files of its own.
        shell.env("OMPI_MCA_btl", "tcp,self").env("OMPI_MCA_btl_tcp_if_include", "lo");
        let output = shell.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{blocks} blocks: {text}");
        assert!(text.contains("error: ") && text.contains(out), "{blocks} blocks: {text}");
        let resume = if place.path(out).join("config.toml").exists() { "--resume" } else { "" };
        succeed(&place, 3, &[training(out, 8, &keys), words(resume)].concat());
        for (file, bytes) in result(&place, out).iter().filter(|(file, _)| file.contains("000000008")) {
            assert!(*bytes == whole[file], "{blocks} blocks: {file} differs");
        }
    }
}

#[test]
#[ignore = "needs mpirun"]
fn samples_evaluations_and_classifiers_are_the_same_on_any_number_of_ranks() {
    let place = Place::new();
    images(&place);
    succeed(&place, 0, &training("run", 4, &["data.labels=true"]));
    let output = |ranks: usize, text: &str, file: &str| {
        let printed = succeed(&place, ranks, &words(text)).stdout;
        let path = place.path(file);
        let written = if path.is_dir() {
            files(&path).into_iter().map(|name| fs::read(path.join(name)).unwrap()).collect()
        } else {
            vec![fs::read(&path).unwrap_or_default()]
        };
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        (printed, written)
    };
    let commands = [
        ("sample run -n 11 --batch-size 2 --steps 4 -o a.npz", "a.npz"),
        ("sample run -n 7 --batch-size 2 --steps 4 -o folder", "folder"),
        ("sample run -n 5 --batch-size 2 --steps 4 --animate -o a.gif", "a.gif"),
        (
            "classifier --data photos --steps 6 --batch-size 12 --passes 4 --set data.resolution=8 -q -o c.safetensors",
            "c.safetensors",
        ),
        ("evaluate run --metrics nll,ode -n 4 --ode-steps 2 --batch-size 3 --json --denoising mt.json", "mt.json"),
        ("evaluate run -n 3 --schedule --lengths 5,8 --json", "nothing"),
        ("evaluate run --metrics nearest --samples 9 --batch-size 2 --sampler-steps 3 --json", "nothing"),
    ];
    for (command, file) in commands {
        let expected = output(0, command, file);
        for ranks in [2, 3] {
            assert!(output(ranks, command, file) == expected, "{command}, {ranks} ranks");
        }
    }
    succeed(&place, 0, &words("sample run -n 20 --steps 3 -o samples.npz"));
    succeed(&place, 0, &words(commands[3].0));
    let features = "evaluate samples.npz --features c.safetensors --metrics fd --json --save-stats s.npz";
    let expected = output(0, features, "s.npz");
    assert!(output(3, features, "s.npz") == expected);
}

/// An MPI that cannot be used is an error of each rank, and not as many single runs in one folder.
#[test]
#[ignore = "needs mpirun"]
fn a_library_that_is_not_the_launchers_is_refused() {
    let place = Place::new();
    images(&place);
    let run = |library: &str| {
        let mut command = ddpm(&place, 2, &training("run", 4, &["train.gradient_accumulation=2"]));
        let output = command.env("DDPM_MPI", library).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = run("/nowhere/libmpi.so");
    assert!(text.contains("no MPI library could be loaded") && text.contains("/nowhere/libmpi.so"), "{text}");
    let text = run("libc.so.6");
    assert!(text.contains("has no MPI_"), "{text}");
    assert!(!place.path("run").exists());
}

/// Two network namespaces with a slow link that loses packets between them, in place of two machines.
struct TwoHosts {
    names: [String; 2],
    _link: Started,
}

impl TwoHosts {
    fn new(place: &Place) -> Self {
        let names = ["a", "b"].map(|name| format!("ddpm-{}-{name}", std::process::id()));
        let run = |program: &str, arguments: &str| {
            let status = Command::new(program).args(arguments.split_whitespace()).status();
            assert!(status.is_ok_and(|status| status.success()), "{program} {arguments}: needs root and iproute2");
        };
        names.iter().for_each(|name| run("ip", &format!("netns add {name}")));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mpi_helpers/link.rs");
        let program = place.path("link").display().to_string();
        let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
        run(&compiler, &format!("--edition 2024 -O -o {program} {source}"));
        let log = place.path("link.log");
        // 1 ms in each direction, and one packet of 100 is lost.
        let mut link = Command::new(program);
        let link = link.args(&names).args(["1000", "100"]).stdout(fs::File::create(&log).unwrap()).spawn().unwrap();
        let link = Started(link);
        until(&log, "up");
        for (name, [mine, other]) in names.iter().zip([["10.9.0.1", "10.9.0.2"], ["10.9.0.2", "10.9.0.1"]]) {
            run("ip", &format!("-n {name} addr add {mine} peer {other} dev link0"));
            run("ip", &format!("-n {name} link set lo up"));
            run("ip", &format!("-n {name} link set link0 up"));
        }
        // What `mpirun` calls in place of ssh: HOST COMMAND…
        let agent = format!("#!/bin/sh\nshift\nexec ip netns exec {} sh -c \"$*\"\n", names[1]);
        fs::write(place.path("agent"), agent).unwrap();
        run("chmod", &format!("+x {}", place.path("agent").display()));
        Self { names, _link: link }
    }
}

impl Drop for TwoHosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

#[test]
#[ignore = "needs Open MPI, root and iproute2"]
fn two_hosts_with_a_bad_network_between_them_train_the_same_bytes() {
    let place = Place::new();
    images(&place);
    let hosts = TwoHosts::new(&place);
    let keys = [&ALL[..], &["model.block_out_channels=[32,64]", "model.norm_num_groups=8"]].concat();
    succeed(&place, 0, &training("one", 8, &keys));
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &hosts.names[0]]).args(launcher(2)).current_dir(place.path("."));
    command.args(["--host", "10.9.0.1,10.9.0.2", "--mca", "plm_rsh_agent"]).arg(place.path("agent"));
    command.args(["--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "link0"]);
    command.args(["--mca", "oob_tcp_if_include", "link0", "--wdir"]).arg(place.path("."));
    command.arg(env!("CARGO_BIN_EXE_ddpm")).args(training("two", 8, &keys)).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same(&result(&place, "one"), &result(&place, "two"), "two hosts");
}

/// Compiles a helper of the tests to a library.
fn library(place: &Place, source: &str, link: &[&str]) -> String {
    let output = place.path(format!("{}.so", source.rsplit('/').next().unwrap())).display().to_string();
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let mut command = Command::new(compiler);
    command.args(["--edition", "2024", "-O", "--crate-type", "cdylib", "-C", "panic=abort", "-o", &output]);
    command.args(link.iter().flat_map(|argument| ["-C", argument]));
    assert!(command.arg(format!("{}/tests/{source}", env!("CARGO_MANIFEST_DIR"))).status().unwrap().success());
    output
}

/// Rank 0 or 1 of 2 is killed in a reduction, in the backward pass after the last agreement of a step, or while rank 0 writes
/// a checkpoint.
#[test]
#[ignore = "needs Open MPI and x86_64"]
#[cfg(target_arch = "x86_64")]
fn a_rank_that_is_killed_in_a_reduction_a_pass_or_a_checkpoint_loses_little() {
    let place = Place::new();
    images(&place);
    let keys = [&ALL[..], &["train.checkpoint_every=2", "train.keep_checkpoints=1000"]].concat();
    succeed(&place, 2, &training("whole", 8, &keys));
    let whole = result(&place, "whole");
    let killer = library(&place, "mpi_helpers/killer.rs", &["link-arg=-Wl,--no-as-needed", "link-arg=-l:libmpi.so.40"]);
    let faults = library(&place, "faults/preload.rs", &[]);
    let run = |out: &str, victim: usize, environment: &[(&str, &str)]| {
        let program = env!("CARGO_BIN_EXE_ddpm");
        let mut command = Command::new("mpirun");
        command.args(&launcher(1)[3..]).current_dir(place.path(".")).stdin(Stdio::null());
        for rank in 0..2 {
            if rank > 0 {
                command.arg(":");
            }
            command.args(["-n", "1"]);
            for (name, value) in environment.iter().filter(|_| rank == victim) {
                command.args(["-x", &format!("{name}={value}")]);
            }
            command.arg(program).args(training(out, 8, &keys));
        }
        command
    };
    let check = |out: &str, what: &str| {
        let resume = if place.path(out).join("config.toml").exists() { "--resume" } else { "" };
        succeed(&place, 2, &[training(out, 8, &keys), words(resume)].concat());
        for (file, bytes) in result(&place, out).iter().filter(|(file, _)| file.contains("000000008")) {
            assert!(*bytes == whole[file], "{what}: {file} differs");
        }
    };
    for victim in [0, 1] {
        // Each step has two calls of a sum; the agreement before the last pass is one of five gathers.
        for (call, at, delay) in [("sum", "9", "0"), ("sum", "12", "0"), ("gather", "36", "1"), ("gather", "41", "2")] {
            let out = format!("{call}-{at}-{victim}");
            let environment = [("DDPM_MPI", &*killer), ("KILL_CALL", call), ("KILL_AT", at), ("KILL_AFTER_MS", delay)];
            let log = place.path(format!("{out}.log"));
            let status = wait(start(run(&out, victim, &environment), &log), Duration::from_secs(60), &out);
            let text = fs::read_to_string(&log).unwrap();
            assert!(!status.success() && text.contains("signal 9"), "{out}: {text}");
            check(&out, &out);
        }
    }
    // Nearly all calls that change files are those of checkpoints. The library counts them in a file.
    let log = place.path("calls").display().to_string();
    let preload = |at: &str, out: &str| {
        let _ = fs::remove_file(&log);
        let environment = [("LD_PRELOAD", &*faults), ("FAULT_LOG", &log), ("FAULT_AT", at), ("FAULT_KIND", "kill")];
        let status = wait(start(run(out, 0, &environment), &place.path("log")), Duration::from_secs(60), out);
        (status.success(), fs::metadata(&log).map_or(0, |log| log.len() as usize))
    };
    let (succeeded, calls) = preload("0", "counted");
    assert!(succeeded && calls > 50, "{calls} calls");
    // The number of calls differs a little from run to run, since MPI has some of its own.
    for at in (1..7).map(|part| part * calls / 8) {
        let out = format!("write-{at}");
        assert!(!preload(&at.to_string(), &out).0);
        check(&out, &format!("rank 0 was killed at write {at} of {calls}"));
    }
}
