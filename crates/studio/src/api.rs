//! The routes, and errors as JSON.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::middleware;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ddpm::train::{Command, LogRecord, TrainingConfig, config::PRESETS};
use futures_util::stream::{self, Stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::assets;
use crate::embedded;
use crate::folder::Folder;
use crate::guard::{self, Guard};
use crate::jobs::Queue;
use crate::models::{self, Models};
use crate::nearest::Nearest;
use crate::picture::{Pixels, text_of};
use crate::requests::{ImageRef, JobRequest};
use crate::runs::{self, LOOKS, Runs};
use crate::understand::{self, ScheduleQuery};
use crate::uploads::Uploads;
use crate::work::image_of;

/// The bytes of an upload.
const MOST_UPLOAD: usize = 32 << 20;
/// The bytes of a request for a job.
const MOST_REQUEST: usize = 2 << 20;

/// An error of a request.
#[derive(Debug)]
pub struct Failure {
    pub status: StatusCode,
    pub message: String,
}

impl Failure {
    /// An error with a status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// An error that is not the request's.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.message }))).into_response()
    }
}

/// Errors of the library are about models, images, keys and files that a request names.
macro_rules! failures {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
            }
        })*
    };
}
failures!(
    ddpm::Error,
    ddpm::diffusion::Error,
    ddpm::evaluate::Error,
    ddpm::model::Error,
    ddpm::sample::Error,
    ddpm::train::ConfigError,
    ddpm::train::Error,
    ddpm::weights::Error
);

/// JSON of a request, whose errors are ours.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Failure> {
        let parsed = Json::<T>::from_request(request, state).await;
        let Json(value) = parsed.map_err(|error: JsonRejection| {
            let text = error.body_text();
            // What comes before is about this program.
            let said = text.strip_prefix("Failed to deserialize the JSON body into the target type: ").unwrap_or(&text);
            Failure::new(error.status(), format!("the request cannot be read: {said}"))
        })?;
        Ok(Self(value))
    }
}

/// What all requests share.
#[derive(Clone)]
pub struct State {
    pub folder: Folder,
    pub runs: Arc<Runs>,
    pub queue: Queue,
    pub models: Arc<Models>,
    pub uploads: Arc<Uploads>,
    /// The name of the device.
    pub device: String,
}

/// Returns the routes behind a guard.
pub fn router(state: State, guard: Guard) -> Router {
    let mut router = Router::new();
    for (path, kind, text) in assets::FILES {
        router = router.route(path, get(async move || ([(CONTENT_TYPE, kind)], text)));
    }
    let jobs = post(add_job).get(jobs).layer(DefaultBodyLimit::max(MOST_REQUEST));
    router
        .route("/api/about", get(about))
        .route("/api/runs", get(list_runs))
        .route("/api/run", get(run))
        .route("/api/run/records", get(run_records))
        .route("/api/run/events", get(run_events))
        .route("/api/run/samples", get(run_samples))
        .route("/api/models", get(list_models))
        .route("/api/model", get(model))
        .route("/api/jobs", jobs)
        .route("/api/jobs/{id}", get(job).delete(cancel))
        .route("/api/jobs/{id}/events", get(job_events))
        .route("/api/jobs/{id}/command", post(command))
        .route("/api/jobs/{id}/images", get(job_images))
        .route("/api/jobs/{id}/image/{number}", get(job_image))
        .route("/api/jobs/{id}/frames/{number}/{which}", get(job_frame))
        .route("/api/jobs/{id}/nearest/{number}", get(nearest))
        .route("/api/jobs/{id}/nearest/{number}/picture", get(nearest_picture))
        .route("/api/uploads", post(upload).layer(DefaultBodyLimit::max(MOST_UPLOAD)))
        .route("/api/image", get(image))
        .route("/api/reproduce", post(reproduce).layer(DefaultBodyLimit::max(MOST_UPLOAD)))
        .route("/api/schedule", get(schedule))
        .route("/api/noised", get(noised))
        .route("/api/noised/picture", get(noised_picture))
        .route("/api/table", get(table))
        .fallback(async || Failure::new(StatusCode::NOT_FOUND, "there is nothing here"))
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .with_state(state)
}

type Answer<T = Json<Value>> = Result<T, Failure>;

/// Does work that reads files or computes on a thread for it, so that other requests are answered meanwhile.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::internal("the request ended unexpectedly; the terminal says more")),
    }
}

async fn answer<T: Serialize + Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Answer<Json<T>> {
    blocking(work).await.map(Json)
}

async fn about(Shared(state): Shared<State>) -> Answer {
    let presets: Vec<Value> = PRESETS.iter().filter_map(|(name, _)| preset(&state.folder, name)).collect();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "folder": state.folder.path(),
        "device": state.device,
        "presets": presets,
        "samplers": understand::samplers(),
        "schedules": understand::schedules(),
        "load": load(),
    })))
}

/// Describes a preset: where it expects its images, if not those in the program, and whether they are there.
fn preset(folder: &Folder, name: &str) -> Option<Value> {
    let images = TrainingConfig::preset(name).ok()?.data.path;
    let images = images.filter(|path| path != std::path::Path::new(ddpm::data::Dataset::HEARTBEAT));
    let found = images.as_ref().is_none_or(|path| folder.find(&path.to_string_lossy()).is_ok());
    Some(json!({ "name": name, "images": images, "found": found }))
}

/// Returns the mean number of processes that want the processors, and the memory in use and in all, where the system tells.
fn load() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let load: Option<f64> = read("/proc/loadavg").and_then(|text| text.split_whitespace().next()?.parse().ok());
    let memory = read("/proc/meminfo");
    let kilobytes = |key: &str| -> Option<f64> {
        memory.as_deref()?.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
    };
    let total = kilobytes("MemTotal:");
    let used = total.zip(kilobytes("MemAvailable:")).map(|(total, available)| 1024.0 * (total - available));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    json!({ "processes": load, "cores": cores, "memory_used": used, "memory": total.map(|total| 1024.0 * total) })
}

#[derive(Deserialize)]
struct OfRun {
    run: String,
    #[serde(default)]
    after: u64,
    #[serde(default)]
    step: u64,
}

async fn list_runs(Shared(state): Shared<State>) -> Answer<Json<Vec<runs::Run>>> {
    answer(move || Ok(state.runs.list().to_vec())).await
}

async fn run(Shared(state): Shared<State>, Query(of): Query<OfRun>) -> Answer<impl IntoResponse> {
    answer(move || state.runs.details(&of.run)).await
}

async fn run_records(Shared(state): Shared<State>, Query(of): Query<OfRun>) -> Answer<impl IntoResponse> {
    answer(move || Ok(after(&state.runs.records(&of.run)?, of.after).to_vec())).await
}

async fn run_samples(Shared(state): Shared<State>, Query(of): Query<OfRun>) -> Answer<Response> {
    let bytes = blocking(move || state.runs.sample_grid(&of.run, of.step)).await?;
    Ok(([(CONTENT_TYPE, "image/png")], bytes).into_response())
}

/// Returns the records after a step.
fn after(records: &[LogRecord], step: u64) -> &[LogRecord] {
    // The steps of a log ascend.
    &records[records.partition_point(|record| record.step <= step)..]
}

/// Follows the log of a run, from a step on. The client is sent what is new since its last event, however slow it is.
async fn run_events(
    Shared(state): Shared<State>,
    Query(of): Query<OfRun>,
) -> Answer<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
    state.runs.find(&of.run)?;
    let events = stream::unfold((state, of, None), |(state, mut of, before)| async move {
        let mut before: Option<Arc<Value>> = before;
        loop {
            if before.is_some() {
                tokio::time::sleep(LOOKS).await;
            }
            let (runs, run) = (state.runs.clone(), of.run.clone());
            let look = blocking(move || Ok((runs.records(&run)?, runs.followed(&run)?)));
            // A run that was removed has no more events.
            let (records, details) = look.await.ok()?;
            let new = after(&records, of.after);
            if new.is_empty() && before.as_ref() == Some(&details) {
                continue;
            }
            let event = Event::default().json_data(json!({ "run": *details, "records": new })).ok()?;
            of.after = new.last().map_or(of.after, |last| last.step);
            before = Some(details);
            return Some((Ok(event), (state, of, before)));
        }
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

async fn list_models(Shared(state): Shared<State>) -> Answer<impl IntoResponse> {
    answer(move || Ok(models::list(&state.folder))).await
}

#[derive(Deserialize)]
struct OfModel {
    model: String,
}

async fn model(Shared(state): Shared<State>, Query(of): Query<OfModel>) -> Answer<impl IntoResponse> {
    answer(move || state.models.info(&of.model)).await
}

async fn jobs(Shared(state): Shared<State>) -> impl IntoResponse {
    Json(state.queue.list())
}

async fn add_job(Shared(state): Shared<State>, Body(request): Body<JobRequest>) -> Answer<impl IntoResponse> {
    request.check()?;
    let id = state.queue.add(request)?;
    Ok((StatusCode::ACCEPTED, Json(state.queue.get(id)?)))
}

async fn job(Shared(state): Shared<State>, Path(id): Path<u64>) -> Answer<impl IntoResponse> {
    Ok(Json(state.queue.get(id)?))
}

async fn cancel(Shared(state): Shared<State>, Path(id): Path<u64>) -> Answer<impl IntoResponse> {
    state.queue.cancel(id)?;
    Ok(Json(state.queue.get(id)?))
}

/// Follows a job: an event has its newest state, so that a slow client misses states and holds up nothing.
async fn job_events(
    Shared(state): Shared<State>,
    Path(id): Path<u64>,
) -> Answer<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
    let changes = state.queue.changes(id)?;
    let events = stream::unfold((state.queue, changes, true), move |(queue, mut changes, first)| async move {
        if !first {
            changes.changed().await.ok()?;
        }
        changes.mark_unchanged();
        let event = Event::default().json_data(queue.get(id).ok()?).ok()?;
        Some((Ok(event), (queue, changes, false)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandBody {
    command: Command,
}

async fn command(
    Shared(state): Shared<State>,
    Path(id): Path<u64>,
    Body(CommandBody { command }): Body<CommandBody>,
) -> Answer<impl IntoResponse> {
    state.queue.command(id, command)?;
    Ok(Json(state.queue.get(id)?))
}

fn png(pixels: &Pixels, text: Option<&str>) -> Answer<Response> {
    let bytes = pixels.png(text).map_err(|error| Failure::internal(error.to_string()))?;
    Ok(([(CONTENT_TYPE, "image/png")], bytes).into_response())
}

/// The grid of a job's images. The file has its request inside.
async fn job_images(Shared(state): Shared<State>, Path(id): Path<u64>) -> Answer<Response> {
    blocking(move || {
        let images = state.queue.images(id)?;
        let request = embedded::request(&state.queue.get(id)?.request, &state.queue.sources(id)?)?;
        let mut response = png(&Pixels::from(&images), Some(&request.to_string()))?;
        if let Ok(name) = format!("inline; filename=\"ddpm-{id}.png\"").parse() {
            response.headers_mut().insert(CONTENT_DISPOSITION, name);
        }
        Ok(response)
    })
    .await
}

async fn job_image(Shared(state): Shared<State>, Path((id, number)): Path<(u64, usize)>) -> Answer<Response> {
    blocking(move || {
        let images = state.queue.images(id)?;
        if number >= images.n {
            return Err(Failure::new(StatusCode::NOT_FOUND, format!("job {id} has {} images", images.n)));
        }
        png(&Pixels::from(&images.slice(number, 1)), None)
    })
    .await
}

async fn job_frame(
    Shared(state): Shared<State>,
    Path((id, number, which)): Path<(u64, usize, String)>,
) -> Answer<Response> {
    blocking(move || {
        let frame = state.queue.frame(id, number)?;
        match &*which {
            "x" => png(&frame.x, None),
            "sample" => png(&frame.sample, None),
            _ => Err(Failure::new(StatusCode::NOT_FOUND, "a frame has `x` and `sample`")),
        }
    })
    .await
}

/// Finds the training images that are nearest to an image of a job.
fn find_nearest(state: &State, id: u64, number: usize) -> Answer<Nearest> {
    let job = state.queue.get(id)?;
    let model = job.model().ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("job {id} has no model")))?;
    let pipeline = state.models.load(model)?;
    let image = image_of(&state.queue, &state.uploads, &pipeline, &ImageRef::Job { job: id, image: number })?;
    crate::nearest::nearest(&pipeline, &image)
}

async fn nearest(Shared(state): Shared<State>, Path((id, number)): Path<(u64, usize)>) -> Answer {
    blocking(move || {
        let Nearest { distances, compared, .. } = find_nearest(&state, id, number)?;
        Ok(Json(json!({ "distances": distances, "compared": compared })))
    })
    .await
}

async fn nearest_picture(Shared(state): Shared<State>, Path((id, number)): Path<(u64, usize)>) -> Answer<Response> {
    blocking(move || png(&Pixels::from(&find_nearest(&state, id, number)?.images), None)).await
}

/// Takes an image file.
async fn upload(Shared(state): Shared<State>, bytes: Bytes) -> Answer<impl IntoResponse> {
    answer(move || state.uploads.store(&bytes)).await
}

/// An image of a request, in query parameters.
#[derive(Clone, Deserialize)]
struct OfImage {
    #[serde(default)]
    model: String,
    upload: Option<u64>,
    job: Option<u64>,
    image: Option<usize>,
    data: Option<usize>,
}

impl OfImage {
    fn read(&self, state: &State) -> Answer<ddpm::Images> {
        let image = match (self.upload, self.job, self.data) {
            (Some(upload), ..) => ImageRef::Upload { upload },
            (None, Some(job), _) => ImageRef::Job { job, image: self.image.unwrap_or(0) },
            (.., data) => ImageRef::Data { data: data.unwrap_or(0) },
        };
        image_of(&state.queue, &state.uploads, &*state.models.load(&self.model)?, &image)
    }
}

/// An image as a model takes it.
async fn image(Shared(state): Shared<State>, Query(of): Query<OfImage>) -> Answer<Response> {
    blocking(move || png(&Pixels::from(&of.read(&state)?), None)).await
}

/// Returns the request inside a PNG that was downloaded.
async fn reproduce(Shared(state): Shared<State>, bytes: Bytes) -> Answer<Json<JobRequest>> {
    let none =
        || Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "the file is no PNG of this studio: no request is inside");
    let mut request: Value = serde_json::from_str(&text_of(&bytes).ok_or_else(none)?).map_err(|_| none())?;
    answer(move || {
        embedded::unpack(&mut request, &mut |png| Ok(state.uploads.store(png)?.upload))?;
        let request: JobRequest = serde_json::from_value(request).map_err(|_| none())?;
        request.check()?;
        Ok(request)
    })
    .await
}

async fn schedule(Query(query): Query<ScheduleQuery>) -> Answer<impl IntoResponse> {
    answer(move || understand::curves(&query)).await
}

#[derive(Clone, Deserialize)]
struct OfNoised {
    name: String,
    t: usize,
    #[serde(default)]
    seed: u64,
    model: String,
    upload: Option<u64>,
    job: Option<u64>,
    image: Option<usize>,
    data: Option<usize>,
}

impl OfNoised {
    fn draw(self, state: &State) -> Answer<understand::Noised> {
        let Self { name, t, seed, model, upload, job, image, data } = self;
        let image = OfImage { model, upload, job, image, data }.read(state)?;
        let query = ScheduleQuery { name, timesteps: 1000, beta_start: 1e-4, beta_end: 0.02 };
        understand::noised(&query, &image, t, seed)
    }
}

async fn noised(Shared(state): Shared<State>, Query(of): Query<OfNoised>) -> Answer {
    blocking(move || {
        let drawn = of.draw(&state)?;
        Ok(Json(json!({ "alpha": drawn.alpha, "sigma": drawn.sigma, "snr": drawn.snr, "histogram": drawn.histogram })))
    })
    .await
}

async fn noised_picture(Shared(state): Shared<State>, Query(of): Query<OfNoised>) -> Answer<Response> {
    blocking(move || png(&Pixels::from(&of.draw(&state)?.images), None)).await
}

#[derive(Deserialize)]
struct OfTable {
    model: String,
    sampler: String,
    steps: Option<usize>,
    grid: Option<String>,
}

async fn table(Shared(state): Shared<State>, Query(of): Query<OfTable>) -> Answer<impl IntoResponse> {
    answer(move || {
        let pipeline = state.models.load(&of.model)?;
        understand::table(&pipeline.scheduler, &of.sampler, of.steps, of.grid.as_deref())
    })
    .await
}
