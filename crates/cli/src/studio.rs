//! `ddpm studio`.

use std::net::IpAddr;
use std::path::PathBuf;

use ::studio::{Options, Studio};
use clap::Args;

use crate::Global;
use crate::interrupt::{INTERRUPTED, on_signals};

/// Open a page in the browser to watch runs, replay sampling and edit images.
///
/// The page shows every run and model below FOLDER, also runs that other processes train, and the model in the program. It draws
/// images step by step, fills in and mixes images, and starts trainings. Nothing is installed or loaded from elsewhere.
///
/// Only this machine can open the page, unless --host is another address: then whoever has the printed address, with its token, can.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm studio\n  ddpm studio runs --port 8080 --open\n  \
    ddpm studio --host 0.0.0.0                from other machines too, with a token\n  \
    ssh -L 7878:127.0.0.1:7878 server         then ddpm studio there, and http://127.0.0.1:7878 here")]
pub struct StudioArgs {
    /// The folder whose runs and models are shown
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Port to listen on; 0 takes one that is free
    #[arg(long, default_value_t = 7878)]
    port: u16,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
}

pub fn run(arguments: StudioArgs, global: &Global) -> anyhow::Result<()> {
    let device = global.device()?;
    let StudioArgs { folder, port, host, open } = arguments;
    let studio = Studio::bind(&Options { folder, host, port })?;
    let (end, mut signals) = (studio.ender(), 0);
    on_signals(move || {
        signals += 1;
        if signals > 1 {
            std::process::exit(INTERRUPTED);
        }
        eprintln!("\nending; a training that runs saves a checkpoint first (again to end at once)");
        end();
    })?;
    let url = studio.url();
    if global.json {
        println!("{}", serde_json::json!({ "url": url }));
    } else {
        println!("{url}");
    }
    if !host.is_loopback() && !global.quiet {
        eprintln!("warning: whoever has this address can use this machine's models, and start trainings");
    }
    if open && let Err(error) = open_browser(&url) {
        eprintln!("warning: the browser cannot be opened: {error}");
    }
    Ok(studio.serve(&device)?)
}

/// Opens an address with the system's program for it.
fn open_browser(url: &str) -> std::io::Result<()> {
    let program = match std::env::consts::OS {
        "macos" => "open",
        "windows" => "explorer",
        _ => "xdg-open",
    };
    std::process::Command::new(program).arg(url).stdout(std::process::Stdio::null()).spawn().map(drop)
}
