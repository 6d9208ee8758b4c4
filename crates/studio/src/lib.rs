//! A page in the browser to watch training runs, replay sampling, and edit images.
//!
//! [`Studio::serve`] answers requests on threads of its own and does the jobs of the page, one at a time, on the thread that calls it.
//! Pages, scripts and styles are part of the program, and nothing is loaded from elsewhere.
//!
//! | module | what |
//! |---|---|
//! | `server` | connections: their number, their time limits |
//! | `guard` | who may ask: `Host`, `Origin`, token; headers of all answers |
//! | `api` | the routes, and errors as JSON |
//! | `folder` | paths of requests, which stay below the folder of the studio |
//! | `runs` | runs below the folder: logs, sample grids, configurations, checkpoints |
//! | `models` | models below the folder, and the one in the program |
//! | `jobs` | the queue: jobs are listed, followed, cancelled |
//! | `requests` | what a job can be asked for, and the command line that does the same |
//! | `work` | the jobs themselves, by the builders of the crate `ddpm` |
//! | `bound` | the variational bound, term by term |
//! | `understand` | noise schedules, the forward process, tables of samplers |
//! | `nearest` | the training images nearest to a sample |
//! | `uploads` | image files that were sent |
//! | `embedded` | the request inside a PNG, with its images |
//! | `picture` | images as PNG |

#![deny(missing_docs)]

mod api;
mod assets;
mod bound;
mod embedded;
mod folder;
mod guard;
mod jobs;
mod models;
mod nearest;
mod picture;
mod requests;
mod runs;
mod server;
mod understand;
mod uploads;
mod work;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use ddpm::Device;

use crate::folder::Folder;
use crate::guard::Guard;
use crate::jobs::Queue;
use crate::models::Models;
use crate::runs::Runs;
use crate::uploads::Uploads;
use crate::work::Places;

/// Returns the command line that does the same as a job.
///
/// # Errors
/// If the text is no job.
pub fn command(job: &str) -> Result<String, serde_json::Error> {
    serde_json::from_str::<requests::JobRequest>(job).map(|request| request.command())
}

/// An error of starting the studio.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder cannot be read.
    #[error("{}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The underlying error.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("{address}: {source}{}", hint(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The underlying error.
        source: std::io::Error,
    },
    /// The threads or the temporary folder of the server cannot be made.
    #[error("the server cannot be started: {0}")]
    Start(#[from] std::io::Error),
}

/// Returns the way out of an error of listening.
fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another program has this port: choose one with --port",
        std::io::ErrorKind::PermissionDenied => "; choose a port above 1023 with --port",
        _ => "",
    }
}

/// Options of the studio.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder whose runs and models are shown.
    pub folder: PathBuf,
    /// The address to listen on. Any but a loopback address asks for a token.
    pub host: IpAddr,
    /// The port to listen on; 0 for any that is free.
    pub port: u16,
}

impl Default for Options {
    /// The current folder at `127.0.0.1:7878`.
    fn default() -> Self {
        Self { folder: ".".into(), host: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 7878 }
    }
}

/// A studio that listens.
pub struct Studio {
    listener: TcpListener,
    guard: Guard,
    folder: Folder,
    queue: Queue,
}

impl Studio {
    /// Listens on the address, without answering yet.
    ///
    /// # Errors
    /// If the folder cannot be read, or the address cannot be listened on.
    pub fn bind(options: &Options) -> Result<Self, Error> {
        let path = &options.folder;
        let folder = Folder::new(path).map_err(|source| Error::Folder { path: path.clone(), source })?;
        let address = SocketAddr::new(options.host, options.port);
        let listener = TcpListener::bind(address).map_err(|source| Error::Listen { address, source })?;
        let guard = Guard::new(listener.local_addr()?)?;
        Ok(Self { listener, guard, folder, queue: Queue::new() })
    }

    /// Returns the address of the page, with the token if there is one.
    pub fn url(&self) -> String {
        self.guard.url()
    }

    /// Returns a function that ends [`Studio::serve`], from any thread. Jobs are cancelled; a training run saves a checkpoint first.
    pub fn ender(&self) -> impl Fn() + Send + Sync + 'static {
        let queue = self.queue.clone();
        move || queue.end()
    }

    /// Answers requests, and does the jobs of the page on this thread, until it is [ended](Studio::ender).
    ///
    /// # Errors
    /// If the threads or the temporary folder of the server cannot be made.
    pub fn serve(self, device: &Device) -> Result<(), Error> {
        let files = tempfile::tempdir()?;
        let queue = self.queue;
        let uploads = Arc::new(Uploads::new(files.path()));
        let models = Arc::new(Models::new(self.folder.clone(), device.clone()));
        let state = api::State {
            folder: self.folder.clone(),
            runs: Arc::new(Runs::new(self.folder.clone())),
            queue: queue.clone(),
            models: models.clone(),
            uploads: uploads.clone(),
            device: if ddpm::unet::ops::is_cpu(device) { "CPU".to_owned() } else { format!("{device:?}") },
        };
        let _server = server::start(self.listener, api::router(state, self.guard))?;
        work::run(&Places { queue: &queue, folder: &self.folder, uploads, models, device });
        Ok(())
    }
}
