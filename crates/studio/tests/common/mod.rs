//! A studio on a port of its own, and a client that can say anything.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ddpm::Device;
use ddpm_studio::{Options, Studio};
use serde_json::Value;

/// A studio of a new folder, which ends with its test.
pub struct Served {
    pub place: tempfile::TempDir,
    pub address: SocketAddr,
    end: Box<dyn Fn() + Send + Sync>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// An answer: status, headers in lower case, body.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }

    /// The text of an error, which every refusal has.
    pub fn error(&self) -> String {
        assert!(self.status >= 400, "{}", self.status);
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

impl Served {
    pub fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let options = Options { folder: place.path().to_owned(), port: 0, ..Options::default() };
        let studio = Studio::bind(&options).unwrap();
        let address = studio.url().trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        let end = Box::new(studio.ender());
        let thread = std::thread::spawn(move || studio.serve(&Device::flex()).unwrap());
        Self { place, address, end, thread: Some(thread) }
    }

    /// Sends bytes as they are, and returns the answer.
    pub fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // A server that refuses a large body stops reading it.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(answer.len());
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head, body: answer.get(end + 4..).unwrap_or_default().to_vec() }
    }

    pub fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Answer {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.raw(&[head.as_bytes(), body].concat())
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "text/plain", b"")
    }

    pub fn post(&self, path: &str, json: &str) -> Answer {
        self.request("POST", path, "application/json", json.as_bytes())
    }

    /// Adds a job and returns its number.
    pub fn job(&self, json: &str) -> u64 {
        let answer = self.post("/api/jobs", json);
        assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()["id"].as_u64().unwrap()
    }

    /// Waits for the end of a job.
    pub fn finished(&self, id: u64) -> Value {
        let start = Instant::now();
        loop {
            let job = self.get(&format!("/api/jobs/{id}")).json();
            if !["waiting", "running"].contains(&job["status"].as_str().unwrap()) {
                return job;
            }
            assert!(start.elapsed() < Duration::from_secs(240), "{job}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        (self.end)();
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A training that takes seconds.
pub fn training(run: &str, steps: usize) -> String {
    format!(
        r#"{{"kind": "train", "run": "{run}", "set": ["train.steps={steps}", "train.batch_size=4", "train.log_every=1",
        "train.sample_every=2", "train.samples=4", "data.resolution=8", "sample.steps=2", "model.attention_resolutions=[]",
        "model.block_out_channels=[8, 8]", "model.norm_num_groups=4", "diffusion.timesteps=50"]}}"#
    )
}
