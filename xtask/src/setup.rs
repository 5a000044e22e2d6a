//! What the tasks need and install by themselves: rustup's components and the WebAssembly target.

use anyhow::{Context as _, bail};
use std::path::Path;
use std::process::{Command, Stdio};

const WASM: &str = "wasm32-unknown-unknown";

/// rustfmt and clippy, which minimal toolchains lack.
pub fn components() -> anyhow::Result<()> {
    let missing = |tool: &&str| !quietly(Command::new("cargo").args([tool, "--version"]));
    let lacking: Vec<_> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(tool, _)| missing(tool))
        .map(|(_, component)| component)
        .collect();
    if lacking.is_empty() {
        println!("rustfmt and clippy are there");
        return Ok(());
    }
    println!("installing {}", lacking.join(", "));
    if Command::new("rustup")
        .args(["component", "add"])
        .args(&lacking)
        .status()
        .is_ok_and(|s| s.success())
    {
        return Ok(());
    }
    let lacking = lacking.join(" ");
    bail!(
        "{lacking} cannot be installed: run `rustup component add {lacking}`, or install them as your system does"
    )
}

/// The standard library for WebAssembly: the core must compile for it.
pub fn wasm_target() -> anyhow::Result<()> {
    if has_wasm()? {
        println!("{WASM} is there");
        return Ok(());
    }
    println!("installing the target {WASM}");
    let added = Command::new("rustup").args(["target", "add", WASM]).status();
    if added.is_ok_and(|status| status.success()) && has_wasm()? {
        return Ok(());
    }
    bail!(
        "the core is checked for browsers, and the target {WASM} is not installed: run `rustup \
         target add {WASM}` where there is a network, or install your distribution's package of \
         Rust's standard library for it"
    )
}

fn has_wasm() -> anyhow::Result<bool> {
    let out = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", WASM])
        .output()
        .context("rustc cannot be run: install Rust with rustup")?;
    let dir = String::from_utf8_lossy(&out.stdout);
    Ok(out.status.success() && Path::new(dir.trim()).is_dir())
}

fn quietly(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}
