//! The API as a client sees it: jobs, runs, images, and requests of strangers.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Served, training};
use ddpm::PipelineExt;
use serde_json::Value;

const GENERATE: &str = r#"{"kind": "generate", "model": "fashion", "n": 3, "seed": 5, "steps": 3, "classes": [7]}"#;

#[test]
fn images_are_those_of_the_library_and_can_be_made_again() {
    let studio = Served::new();
    let job = studio.finished(studio.job(GENERATE));
    assert_eq!(job["status"], "done", "{job}");
    assert_eq!(job["command"], "ddpm sample fashion -n 3 --seed 5 --steps 3 --labels 7 -o grid.png");
    assert_eq!((job["shape"].to_string(), job["frames"].as_array().unwrap().len()), ("[3,32,32,1]".to_owned(), 3));
    assert_eq!(job["classes"], serde_json::json!(["Sneaker", "Sneaker", "Sneaker"]));
    let info = studio.get("/api/model?model=fashion").json();
    assert_eq!(info["classes"][7], serde_json::json!({"label": 7, "name": "Sneaker"}));

    let folder = ddpm::weights::builtin::folder().unwrap();
    let pipeline = ddpm::Pipeline::load(folder, &ddpm::Device::flex()).unwrap();
    let expected = pipeline.sample(3).seed(5).steps(3).labels([7]).run().unwrap().bytes();
    let picture = studio.get("/api/jobs/1/images");
    assert!(picture.head.contains("content-type: image/png"), "{}", picture.head);
    std::fs::write(studio.place.path().join("grid.png"), &picture.body).unwrap();
    let grid = ddpm::data::open(&studio.place.path().join("grid.png"), &Default::default()).unwrap();
    assert_eq!((grid.height(), grid.width()), (64, 64));
    let pixels = grid.read([0]).unwrap();
    // The third image is at the bottom left.
    let third: Vec<u8> = (0..32).flat_map(|y| pixels[(32 + y) * 64..][..32].to_vec()).collect();
    assert!(third == expected[2 * 1024..]);
    assert_eq!(studio.get("/api/jobs/1/image/2").status, 200);
    assert_eq!(studio.get("/api/jobs/1/image/3").status, 404);
    for which in ["x", "sample"] {
        assert_eq!(studio.get(&format!("/api/jobs/1/frames/2/{which}")).status, 200);
    }
    assert_eq!(studio.get("/api/jobs/1/frames/3/x").status, 404);
    assert_eq!(studio.get("/api/jobs/1/frames/0/y").status, 404);

    let nearest = studio.get("/api/jobs/1/nearest/1").json();
    assert_eq!(
        (nearest["compared"].as_u64(), nearest["distances"].as_array().unwrap().len()),
        (Some(10_000), 6),
        "{nearest}"
    );
    assert_eq!(studio.get("/api/jobs/1/nearest/1/picture").status, 200);
    assert_eq!(studio.get("/api/jobs/1/nearest/7").status, 404);

    let request = studio.request("POST", "/api/reproduce", "image/png", &picture.body).json();
    let again = studio.finished(studio.job(&request.to_string()));
    assert_eq!(studio.get(&format!("/api/jobs/{}/images", again["id"])).body, picture.body);
    // A variation has its source inside: the number of the job means nothing elsewhere.
    let vary =
        r#"{"kind": "generate", "model": "fashion", "n": 2, "steps": 4, "from": {"job": 1, "image": 2}, "at": 600}"#;
    let varied = studio.finished(studio.job(vary));
    let picture = studio.get(&format!("/api/jobs/{}/images", varied["id"]));
    let elsewhere = Served::new();
    let request = elsewhere.request("POST", "/api/reproduce", "image/png", &picture.body).json();
    assert_eq!(request["from"]["upload"], 1, "{request}");
    let again = elsewhere.finished(elsewhere.job(&request.to_string()));
    let pixels = |bytes: &[u8]| {
        let path = studio.place.path().join("varied.png");
        std::fs::write(&path, bytes).unwrap();
        ddpm::data::open(&path, &Default::default()).unwrap().read([0]).unwrap()
    };
    let made = elsewhere.get(&format!("/api/jobs/{}/images", again["id"])).body;
    assert!(pixels(&made) == pixels(&picture.body));
    let beyond = studio.get("/api/image?model=fashion&data=1000000");
    assert_eq!((beyond.status, beyond.error().contains("numbered from 0")), (404, true));

    let other = studio.request("POST", "/api/reproduce", "image/png", b"no picture");
    assert_eq!((other.status, other.error().contains("no request is inside")), (422, true));
}

#[test]
fn the_bound_is_that_of_the_library() {
    let studio = Served::new();
    let request = r#"{"kind": "bound", "model": "fashion", "n": 3, "steps": 5, "image": {"data": 4}}"#;
    let job = studio.finished(studio.job(request));
    assert_eq!(job["status"], "done", "{job}");
    let numbers = |name: &str| -> Vec<f64> {
        job["facts"][name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let folder = ddpm::weights::builtin::folder().unwrap();
    let pipeline = ddpm::Pipeline::load(folder, &ddpm::Device::flex()).unwrap();
    let set = pipeline.open_training_data(ddpm::data::Split::Test).unwrap();
    let bound = pipeline.evaluate().steps(5).likelihood(&pipeline.read_set(&set, 3).unwrap()).unwrap();
    assert_eq!(numbers("bits_per_dim"), [bound.bits_per_dim, bound.standard_error]);
    assert_eq!(numbers("mse"), bound.points.iter().map(|point| point.mse).collect::<Vec<_>>());
    assert!((numbers("parts").iter().sum::<f64>() - bound.bits_per_dim).abs() < 1e-9);
    assert_eq!(numbers("rate").len(), 5);
    // At the last timesteps the image is nearly there; x and its prediction are those of image 4.
    assert_eq!(job["frames"].as_array().unwrap().len(), 5);
    let shown = ddpm::Images::read(&set, &[4]).unwrap().bytes();
    let last = studio.get(&format!("/api/jobs/{}/frames/4/sample", job["id"]));
    let path = studio.place.path().join("last.png");
    std::fs::write(&path, last.body).unwrap();
    let last = ddpm::data::open(&path, &Default::default()).unwrap().read([0]).unwrap();
    let error = last.iter().zip(&shown).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / 1024.0;
    assert!(error < 3.0, "{error}");
}

#[test]
fn images_are_edited() {
    let studio = Served::new();
    let made = studio.job(GENERATE);
    studio.finished(made);
    // An image of the job, uploaded.
    let image = studio.get(&format!("/api/jobs/{made}/image/0")).body;
    let upload = studio.request("POST", "/api/uploads", "image/png", &image).json();
    assert_eq!((&upload["height"], &upload["width"]), (&Value::from(32), &Value::from(32)));
    let as_taken = studio.get(&format!("/api/image?model=fashion&upload={}", upload["upload"]));
    assert_eq!(as_taken.status, 200);
    let mask = ["0".repeat(512), "1".repeat(512)].concat();
    let inpaint = format!(
        r#"{{"kind": "inpaint", "model": "fashion", "image": {{"upload": {}}}, "mask": "{mask}", "n": 2, "steps": 3, "class": 7}}"#,
        upload["upload"]
    );
    let job = studio.finished(studio.job(&inpaint));
    assert_eq!((job["status"].as_str(), job["shape"].to_string()), (Some("done"), "[2,32,32,1]".to_owned()), "{job}");
    // What is not painted over stays.
    let pixels = |bytes: &[u8]| {
        let path = studio.place.path().join("part.png");
        std::fs::write(&path, bytes).unwrap();
        ddpm::data::open(&path, &Default::default()).unwrap().read([0]).unwrap()
    };
    let filled = pixels(&studio.get(&format!("/api/jobs/{}/image/1", job["id"])).body);
    assert!(filled[..512] == pixels(&image)[..512] && filled[512..] != pixels(&image)[512..]);

    for (request, shape) in [
        (
            r#"{"kind": "interpolate", "model": "fashion", "ends": [{"job": 1, "image": 0}, {"data": 3}], "at": 500, "frames": 4, "steps": 3}"#,
            "[4,32,32,1]",
        ),
        (r#"{"kind": "invert", "model": "fashion", "image": {"job": 1, "image": 1}, "steps": 3}"#, "[3,32,32,1]"),
        (
            r#"{"kind": "generate", "model": "fashion", "n": 2, "steps": 6, "from": {"data": 0}, "at": 400}"#,
            "[2,32,32,1]",
        ),
    ] {
        let job = studio.finished(studio.job(request));
        assert_eq!((job["status"].as_str(), job["shape"].to_string()), (Some("done"), shape.to_owned()), "{job}");
    }
    let inverted = studio.get("/api/jobs/4").json();
    assert!(inverted["facts"]["rmse"][0].as_f64().unwrap() > 0.0, "{inverted}");

    for (request, expected) in [
        (r#"{"kind": "generate", "model": "nothing", "n": 1}"#, "nothing: there is no such file or folder"),
        (r#"{"kind": "generate", "model": "fashion", "n": 1, "sampler": "dimm"}"#, "dimm"),
        (r#"{"kind": "generate", "model": "fashion", "n": 1, "classes": [10]}"#, "no class 10"),
        (r#"{"kind": "invert", "model": "fashion", "image": {"job": 99, "image": 0}}"#, "no job 99"),
        (r#"{"kind": "inpaint", "model": "fashion", "image": {"data": 0}, "mask": "01"}"#, "the mask has 2 pixels"),
        (r#"{"kind": "train", "run": "x", "set": ["train.stpes=1"]}"#, "train.steps"),
        (
            r#"{"kind": "bound", "model": "fashion", "image": {"job": 1, "image": 9}, "n": 1, "steps": 2}"#,
            "none of number 9",
        ),
        (r#"{"kind": "train", "run": "../x"}"#, "not a path below"),
        (r#"{"kind": "train", "run": "x", "set": ["data.path=/etc"]}"#, "not a path below"),
        (r#"{"kind": "train", "run": "x", "set": ["train.init_from=../model"]}"#, "not a path below"),
        (r#"{"kind": "train", "run": "x", "preset": "mnist"}"#, "data/mnist: there is no such file or folder"),
    ] {
        let job = studio.finished(studio.job(request));
        assert_eq!(job["status"], "failed", "{request}");
        assert!(job["error"].as_str().unwrap().contains(expected), "{job}");
    }
}

#[test]
fn a_training_is_followed_commanded_and_continued() {
    let studio = Served::new();
    let id = studio.job(&training("runs/a", 100_000));
    let start = Instant::now();
    let records = loop {
        let answer = studio.get("/api/run/records?run=runs/a&after=1");
        if answer.status == 200 && answer.json().as_array().unwrap().len() > 3 {
            break answer.json();
        }
        assert!(start.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(records[0]["step"], 2);
    let listed = studio.get("/api/runs").json();
    assert_eq!(
        (&listed[0]["run"], &listed[0]["trains"], &listed[0]["steps"]),
        (&"runs/a".into(), &true.into(), &100_000.into())
    );
    assert!(listed[0]["seconds_left"].as_f64().unwrap() > 0.0);
    assert_eq!(studio.post(&format!("/api/jobs/{id}/command"), r#"{"command": "Save"}"#).status, 200);
    assert_eq!(studio.post(&format!("/api/jobs/{id}/command"), r#"{"command": "Jump"}"#).status, 422);
    let twice = studio.post("/api/jobs", &training("runs/a", 5));
    assert_eq!((twice.status, twice.error().contains("already")), (409, true));
    // A job that waits is cancelled at once.
    let waiting = studio.job(GENERATE);
    assert_eq!(studio.get(&format!("/api/jobs/{waiting}")).json()["status"], "waiting");
    assert_eq!(
        studio.request("DELETE", &format!("/api/jobs/{waiting}"), "text/plain", b"").json()["status"],
        "cancelled"
    );
    studio.request("DELETE", &format!("/api/jobs/{id}"), "text/plain", b"");
    let job = studio.finished(id);
    assert!(job["message"].as_str().unwrap().contains("stopped after"), "{job}");
    assert_eq!(studio.post(&format!("/api/jobs/{id}/command"), r#"{"command": "Save"}"#).status, 409);

    let details = studio.get("/api/run?run=runs/a").json();
    let (step, steps) = (details["step"].as_u64().unwrap(), details["samples"].as_array().unwrap());
    assert!(
        details["checkpoints"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["step"] == step && c["bytes"].as_u64() > Some(10_000))
    );
    assert!(details["config"].as_str().unwrap().contains("log_every = 1"));
    assert!(details["keys"].as_array().unwrap().iter().any(|pair| pair[0] == "train.steps" && pair[1] == "100000"));
    assert_eq!(details["trains"], false);
    let grid = studio.get(&format!("/api/run/samples?run=runs/a&step={}", steps[0]));
    assert_eq!((grid.status, &grid.body[1..4]), (200, &b"PNG"[..]));
    assert_eq!(studio.get("/api/run/samples?run=runs/a&step=1").status, 404);
    // It is a model now, and the run continues.
    let models = studio.get("/api/models").json();
    assert!(
        models.as_array().unwrap().iter().any(|model| model["model"] == "runs/a" && model["kind"] == "run"),
        "{models}"
    );
    assert_eq!(studio.get("/api/model?model=runs/a").json()["timesteps"], 50);
    let again = studio.finished(studio.job(&training("runs/a", step as usize + 3)));
    assert!(again["error"].as_str().unwrap().contains("runs/a"), "{again}");
    let resume =
        format!(r#"{{"kind": "train", "run": "runs/a", "resume": true, "set": ["train.steps={}"]}}"#, step + 3);
    let more = studio.finished(studio.job(&resume));
    assert_eq!(more["status"], "done", "{more}");
    let config = studio.get("/api/run?run=runs/a").json()["config"].to_string();
    assert!(config.contains("log_every = 1") && config.contains("batch_size = 4"), "{config}");
    assert_eq!(studio.get("/api/run?run=runs/a").json()["step"], step + 3);
}

/// The configuration of a run has the whole path of its images, which a request must not have.
#[test]
fn a_training_on_images_below_the_folder_continues() {
    let studio = Served::new();
    let photos = studio.place.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    studio.finished(studio.job(GENERATE));
    for i in 0..3 {
        std::fs::write(photos.join(format!("{i}.png")), studio.get(&format!("/api/jobs/1/image/{i}")).body).unwrap();
    }
    let begin = training("runs/p", 2).replace("\"set\": [", "\"data\": \"photos\", \"set\": [");
    let begun = studio.finished(studio.job(&begin));
    assert_eq!(begun["status"], "done", "{begun}");
    // Without a preset, the images choose: they have no classes, and so nothing is dropped or guided.
    let config = studio.get("/api/run?run=runs/p").json();
    for (key, value) in [("data.labels", "false"), ("train.label_dropout", "0.0"), ("sample.guidance", "1.0")] {
        let keys = config["keys"].as_array().unwrap();
        assert!(keys.iter().any(|pair| pair[0] == key && pair[1] == value), "{key}: {config}");
    }
    let presets = studio.get("/api/about").json()["presets"].take();
    let found =
        |name: &str| presets.as_array().unwrap().iter().find(|preset| preset["name"] == name).unwrap()["found"].clone();
    assert_eq!((found("fashion"), found("cifar10")), (true.into(), false.into()));
    let resume = r#"{"kind": "train", "run": "runs/p", "resume": true, "set": ["train.steps=4"]}"#;
    let more = studio.finished(studio.job(resume));
    assert_eq!(more["status"], "done", "{more}");
    let elsewhere = r#"{"kind": "train", "run": "runs/p", "resume": true, "set": ["train.steps=6", "data.path=/etc"]}"#;
    let refused = studio.finished(studio.job(elsewhere));
    assert!(refused["error"].as_str().unwrap().contains("not a path below"), "{refused}");
}

/// Each event has the newest state, however slowly they are read.
#[test]
fn a_slow_client_holds_up_nothing() {
    let studio = Served::new();
    let id = studio.job(r#"{"kind": "generate", "model": "fashion", "n": 1, "steps": 200}"#);
    let mut slow = TcpStream::connect(studio.address).unwrap();
    write!(slow, "GET /api/jobs/{id}/events HTTP/1.1\r\nhost: {}\r\n\r\n", studio.address).unwrap();
    let half_open: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(studio.address).unwrap();
            stream.write_all(b"GET /api/about HTTP/1.1\r\nho").unwrap();
            stream
        })
        .collect();
    // Fifty clients at once, each with several requests.
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                for path in ["/", "/api/about", "/api/jobs", "/api/runs", "/api/schedule?name=linear"] {
                    assert_eq!(studio.get(path).status, 200, "{path}");
                }
            });
        }
    });
    assert_eq!(studio.finished(id)["status"], "done");
    drop(half_open);
    slow.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    while !text.contains(r#""status":"done""#) {
        match slow.read(&mut bytes) {
            Ok(read @ 1..) => text += &String::from_utf8_lossy(&bytes[..read]),
            end => panic!("{end:?} after {text}"),
        }
    }
}

#[test]
fn requests_of_strangers_are_refused() {
    let studio = Served::new();
    std::fs::write(studio.place.path().join("notes.txt"), "private").unwrap();
    let host = studio.address;
    let with = |head: &str| studio.raw(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).status;
    assert_eq!(with(&format!("GET / HTTP/1.1\r\nhost: {host}")), 200);
    assert_eq!(with("GET / HTTP/1.1\r\nhost: evil.example"), 421);
    assert_eq!(with(&format!("GET /api/jobs HTTP/1.1\r\nhost: {host}\r\norigin: http://evil.example")), 403);
    assert_eq!(with(&format!("DELETE /api/jobs/1 HTTP/1.1\r\nhost: {host}\r\nsec-fetch-site: cross-site")), 403);
    assert_eq!(with("nonsense"), 400);
    for path in [
        "/api/run?run=..",
        "/api/run?run=%2e%2e%2f",
        "/api/run?run=/etc",
        "/api/run?run=notes.txt",
        "/notes.txt",
        "/../notes.txt",
        "/api/nothing",
    ] {
        let answer = studio.get(path);
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.body.windows(7).any(|bytes| bytes == b"private"), "{path}");
    }
    assert_eq!(studio.post("/api/jobs", "{").status, 400);
    assert!(
        studio
            .post("/api/jobs", r#"{"kind": "generate", "model": "fashion", "n": 100000}"#)
            .error()
            .contains("expected 1 to 64")
    );
    assert_eq!(studio.request("POST", "/api/jobs", "text/plain", GENERATE.as_bytes()).status, 415);
    let large = vec![b' '; 3 << 20];
    assert_eq!(studio.request("POST", "/api/jobs", "application/json", &large).status, 413);
    assert_eq!(studio.request("POST", "/api/uploads", "image/png", &vec![0; 33 << 20]).status, 413);
    let upload = studio.request("POST", "/api/uploads", "image/png", b"no picture");
    assert_eq!(upload.status, 415);
    assert!(!upload.error().contains("/tmp"), "{}", upload.error());
    for header in ["content-security-policy", "x-content-type-options", "cache-control"] {
        assert!(studio.get("/").head.contains(header), "{header}");
    }
}
