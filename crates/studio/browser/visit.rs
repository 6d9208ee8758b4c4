//! The page of a program that runs, in a real browser: Debian's Chromium, driven by chromedriver.
//!
//! `DDPM=FILE` names the program; the default is the one that a release build of the workspace leaves. `STUDIO_PICTURES=FOLDER` writes
//! pictures of each view, for docs/pictures/studio.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::actions::{InputSource, MouseActions, PointerAction};
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};

/// `ddpm studio` on a new folder and a port of its own, which ends with its test.
struct Served {
    _place: tempfile::TempDir,
    address: String,
    program: Child,
}

impl Served {
    fn new() -> Self {
        let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../target/release/ddpm");
        let program = std::env::var_os("DDPM").unwrap_or(built.into());
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new(&program);
        command
            .args(["studio", "--port", "0", "--json"])
            .arg(place.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut program = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        let address = said["url"].as_str().unwrap().trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { _place: place, address, program }
    }

    fn get(&self, path: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&answer));
        answer.split_off(end + 4)
    }

    fn job(&self, id: u64) -> Value {
        serde_json::from_slice(&self.get(&format!("/api/jobs/{id}"))).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// chromedriver, which ends with its test.
struct Driver(Child, u16);

impl Driver {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("chromedriver is installed (Debian: chromium-driver)"), port)
    }

    /// Opens a browser with a window of this size.
    async fn browser(&self, [width, height]: [u32; 2], dark: bool) -> Client {
        let scheme = if dark { "--force-dark-mode" } else { "--disable-features=WebContentsForceDark" };
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            scheme,
            &format!("--window-size={width},{height}"),
        ];
        let capabilities =
            json!({ "goog:chromeOptions": { "args": arguments }, "goog:loggingPrefs": { "browser": "ALL" } });
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let start = Instant::now();
        loop {
            let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
            builder.capabilities(capabilities.clone());
            match builder.connect(&format!("http://127.0.0.1:{}", self.1)).await {
                Ok(client) => {
                    client.set_window_size(width, height).await.unwrap();
                    return client;
                }
                Err(error) if start.elapsed() > Duration::from_secs(30) => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a JavaScript expression is true.
async fn wait_for(page: &Client, expression: &str) {
    let start = Instant::now();
    while page.execute(&format!("return Boolean({expression})"), vec![]).await.unwrap() != Value::Bool(true) {
        if start.elapsed() > Duration::from_secs(120) {
            let text = page.execute("return document.body.innerText", vec![]).await.unwrap();
            panic!("{expression} is not true; the page says {text}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn number(page: &Client, expression: &str) -> f64 {
    page.execute(&format!("return Number({expression})"), vec![]).await.unwrap().as_f64().unwrap()
}

async fn click(page: &Client, css: &str) {
    page.find(Locator::Css(css)).await.unwrap().click().await.unwrap();
}

async fn press(page: &Client, text: &str) {
    let path = format!("//button[normalize-space()='{text}']");
    page.find(Locator::XPath(&path)).await.unwrap().click().await.unwrap();
}

/// Writes a field as a user does, with its events.
async fn fill(page: &Client, css: &str, value: &str) {
    let script = "const field = document.querySelector(arguments[0]); field.value = arguments[1]; \
                  field.dispatchEvent(new Event('input', { bubbles: true })); field.dispatchEvent(new Event('change', { bubbles: true }))";
    page.execute(script, vec![css.into(), value.into()]).await.unwrap();
}

async fn picture(page: &Client, name: &str) {
    let Some(folder) = std::env::var_os("STUDIO_PICTURES") else { return };
    tokio::time::sleep(Duration::from_millis(600)).await;
    std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), page.screenshot().await.unwrap()).unwrap();
}

async fn open(page: &Client, studio: &Served, view: &str) {
    page.goto(&format!("http://{}/#{view}", studio.address)).await.unwrap();
    wait_for(
        page,
        &format!(
            "document.title.startsWith('{}') && document.querySelector('#view').children.length",
            view.split('/').next().unwrap()
        ),
    )
    .await;
}

#[tokio::test]
async fn a_visitor_trains_generates_replays_and_repairs() {
    let studio = Served::new();
    let driver = Driver::start();
    let page = driver.browser([1280, 900], false).await;

    // A training from the page, whose curve grows.
    open(&page, &studio, "runs").await;
    wait_for(&page, "document.querySelector('form input')").await;
    fill(&page, "form input", "runs/first").await;
    let keys = "train.batch_size=4\ntrain.log_every=1\ntrain.sample_every=5\ntrain.samples=4\ndata.resolution=8\nsample.steps=2\n\
                model.attention_resolutions=[]\nmodel.block_out_channels=[8, 8]\nmodel.norm_num_groups=4\ndiffusion.timesteps=50\n\
                train.steps=100000";
    fill(&page, "form textarea", keys).await;
    press(&page, "Train").await;
    wait_for(&page, "document.querySelector('.u-over') && document.querySelector('.runs .live')").await;
    let step = "document.querySelector('#view .live')?.parentElement?.innerText.match(/\\d+/)?.[0]";
    let steps = "[...document.querySelectorAll('#view p.live')].at(-1)?.innerText.match(/step (\\d+)/)?.[1] ?? 0";
    let before = number(&page, steps).await;
    wait_for(&page, &format!("Number({steps}) > {}", before + 10.0)).await;
    wait_for(&page, "document.querySelector('img[alt^=\"Samples of runs/first\"]')?.naturalWidth > 0").await;
    assert!(number(&page, &format!("({step}) ?? 0")).await >= 0.0);
    picture(&page, "runs-light").await;
    press(&page, "Stop and save").await;
    wait_for(&page, "[...document.querySelectorAll('.job')].some((job) => job.innerText.includes('stopped after'))")
        .await;
    wait_for(&page, "document.querySelector('#view').innerText.includes('not training now')").await;

    // Images appear while they are drawn; afterwards their way is replayed.
    open(&page, &studio, "generate/fashion").await;
    wait_for(&page, "document.querySelector('button.main')?.textContent === 'Generate' && document.querySelector('select')?.value === 'fashion'").await;
    fill(&page, "form input[min='1'][max='4000']", "40").await;
    click(&page, "button.main").await;
    let bar = "document.querySelector('#view progress')";
    wait_for(&page, &format!("{bar} && !{bar}.hidden && document.querySelector('.tiles img').naturalWidth > 0")).await;
    wait_for(&page, "document.querySelector('#view .card p').innerText.startsWith('done in')").await;
    wait_for(&page, "document.querySelector('.tiles img').src.endsWith('/images')").await;
    picture(&page, "generate-light").await;
    let slider = "input[aria-label='Step of sampling']";
    fill(&page, slider, "10").await;
    wait_for(&page, "document.querySelector('.tiles img').src.includes('/frames/10/sample') && document.querySelector('.tiles img').complete").await;
    press(&page, "Replay").await;
    wait_for(&page, "document.querySelector('.tiles img').src.includes('/frames/0/')").await;
    wait_for(&page, "document.querySelector('.tiles img').src.endsWith('/images')").await;
    // An image is chosen, and varied.
    click(&page, "button[aria-label='Image 8: Sneaker']").await;
    wait_for(&page, "document.querySelector('#view').innerText.includes('number 7')").await;
    press(&page, "Nine variations from there").await;
    wait_for(&page, "[...document.querySelectorAll('.tiles img')].at(-1).src.match(/jobs\\/3\\/images/)").await;

    // An image is repaired with the mouse.
    open(&page, &studio, "edit").await;
    wait_for(&page, "document.querySelector('canvas.draw')?.width === 32").await;
    page.execute("document.querySelector('canvas.draw').scrollIntoView({ block: 'center' })", vec![]).await.unwrap();
    let canvas = page.find(Locator::Css("canvas.draw")).await.unwrap();
    let (left, top, width, height) = canvas.rectangle().await.unwrap();
    let scrolled = number(&page, "scrollY").await;
    let at = |x: f64, y: f64| (left + x * width, top - scrolled + y * height);
    let moved = |(x, y): (f64, f64)| PointerAction::MoveTo { duration: Some(Duration::from_millis(30)), x, y };
    let mut stroke =
        MouseActions::new("mouse".into()).then(moved(at(0.3, 0.55))).then(PointerAction::Down { button: 0 });
    for i in 1..=8 {
        stroke = stroke.then(moved(at(0.3 + 0.05 * f64::from(i), 0.55)));
    }
    page.perform_actions(stroke.then(PointerAction::Up { button: 0 })).await.unwrap();
    press(&page, "Fill in").await;
    wait_for(&page, "document.querySelector('#view .stays p').innerText.startsWith('done in')")
        .await;
    picture(&page, "edit-light").await;
    let job = studio.job(4);
    assert_eq!((job["request"]["kind"].as_str(), job["status"].as_str()), (Some("inpaint"), Some("done")), "{job}");
    let painted = job["request"]["mask"].as_str().unwrap().bytes().filter(|byte| *byte == b'1').count();
    assert!((20..200).contains(&painted), "{painted}");
    // What is drawn on it with a color is part of the image that is changed.
    page.execute(
        "const tool = document.querySelector('canvas.draw ~ .half select'); tool.value = 'color'; \
                  tool.dispatchEvent(new Event('change'))",
        vec![],
    )
    .await
    .unwrap();
    page.execute("document.querySelector('canvas.draw').scrollIntoView({ block: 'center' })", vec![]).await.unwrap();
    let (left, top, ..) = canvas.rectangle().await.unwrap();
    let scrolled = number(&page, "scrollY").await;
    let at = |x: f64, y: f64| (left + x * width, top - scrolled + y * height);
    let mut stroke =
        MouseActions::new("mouse".into()).then(moved(at(0.1, 0.1))).then(PointerAction::Down { button: 0 });
    stroke = stroke.then(moved(at(0.5, 0.1)));
    page.perform_actions(stroke.then(PointerAction::Up { button: 0 })).await.unwrap();
    press(&page, "Change").await;
    wait_for(&page, "document.querySelector('#view .columns > div:last-child .command').innerText.includes('--from')")
        .await;
    let job = studio.job(5);
    assert!(job["request"]["from"]["upload"].is_u64(), "{job}");
    let upload = &job["request"]["from"]["upload"];
    let drawn = studio.get(&format!("/api/image?model=fashion&upload={upload}"));
    let mut reader = png::Decoder::new(std::io::Cursor::new(&drawn)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    assert_eq!(reader.info().color_type, png::ColorType::Grayscale);
    let white = pixels.iter().filter(|byte| **byte > 250).count();
    assert!(white >= 12, "{white}");

    open(&page, &studio, "understand").await;
    wait_for(&page, "document.querySelectorAll('.u-over').length === 4 && document.querySelectorAll('td').length > 20")
        .await;
    let before = page.execute("return document.querySelector('figure p').innerText", vec![]).await.unwrap();
    fill(&page, "input[aria-label='Timestep']", "900").await;
    wait_for(&page, "document.querySelector('figure p').innerText.startsWith('t = 900')").await;
    assert!(before.as_str().unwrap().contains("t = 300"), "{before}");
    // What the bits are spent on.
    press(&page, "Measure").await;
    wait_for(&page, "document.querySelectorAll('.u-over').length === 6").await;
    fill(&page, "input[aria-label='Point of the curve']", "63").await;
    wait_for(&page, "[...document.querySelectorAll('p.quiet')].some((p) => p.innerText.startsWith('t = 0: after'))")
        .await;
    picture(&page, "understand-light").await;

    // Nothing is wider than the narrowest screens, and no view reports an error.
    for size in [[360, 740], [2560, 1300]] {
        page.set_window_size(size[0], size[1]).await.unwrap();
        for view in ["runs", "generate", "edit", "understand"] {
            open(&page, &studio, view).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let wide =
                number(&page, "document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
            assert!(wide <= 0.0, "{view} at {size:?}: {wide} pixels too wide");
        }
    }
    let messages = page.execute("return document.querySelector('#messages').innerText", vec![]).await.unwrap();
    assert_eq!(messages, "");
    page.close().await.unwrap();

    let dark = driver.browser([1280, 900], true).await;
    for view in ["runs", "generate", "edit", "understand"] {
        open(&dark, &studio, view).await;
        tokio::time::sleep(Duration::from_millis(900)).await;
        picture(&dark, &format!("{view}-dark")).await;
    }
    dark.close().await.unwrap();
}
