//! `ddpm completions` and `ddpm man`.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use ddpm::weights::atomic;

use crate::{Cli, Global};

/// Print a shell's completions of commands, flags and their values.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm completions bash > ~/.local/share/bash-completion/completions/ddpm\n  \
    ddpm completions zsh > ~/.zfunc/_ddpm\n  ddpm completions fish > ~/.config/fish/completions/ddpm.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub fn completions(arguments: CompletionsArgs, global: &Global) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "ddpm", &mut script);
    let script = String::from_utf8(script)?;
    if global.json {
        println!("{}", serde_json::json!({ "shell": arguments.shell.to_string(), "script": script }));
    } else {
        print!("{script}");
    }
    Ok(())
}

/// Print the manual page, or write the pages of all commands.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm man | man -l -\n  ddpm man -o ~/.local/share/man/man1")]
pub struct ManArgs {
    /// The folder to write ddpm.1, ddpm-train.1 and so on to. Without it, the main page is printed
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

pub fn man(arguments: ManArgs, global: &Global) -> anyhow::Result<()> {
    let mut program = Cli::command();
    program.build();
    let Some(folder) = arguments.output else {
        let page = String::from_utf8(page(program)?)?;
        match global.json {
            true => println!("{}", serde_json::json!({ "page": page })),
            false => print!("{page}"),
        }
        return Ok(());
    };
    std::fs::create_dir_all(&folder)
        .map_err(|error| anyhow::anyhow!("{}: cannot create this folder: {error}", folder.display()))?;
    let commands = program.get_subcommands().filter(|command| command.get_name() != "help");
    let pages = std::iter::once(&program).chain(commands).map(|command| {
        let name = command.get_display_name().unwrap_or("ddpm");
        Ok((format!("{name}.1"), page(command.clone())?))
    });
    let pages: Vec<(String, Vec<u8>)> = pages.collect::<std::io::Result<_>>()?;
    for (name, page) in &pages {
        atomic::write_file(folder.join(name), |file| file.write_all(page))?;
    }
    if global.json {
        let names: Vec<&str> = pages.iter().map(|(name, _)| &**name).collect();
        println!("{}", serde_json::json!({ "output": folder.to_string_lossy(), "pages": names }));
    } else if !global.quiet {
        eprintln!("{} pages: {}", pages.len(), folder.display());
    }
    Ok(())
}

/// Returns a command's page in roff.
fn page(command: clap::Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}
