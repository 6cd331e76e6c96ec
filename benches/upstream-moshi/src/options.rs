//! Arguments of the program.

use std::path::PathBuf;

/// How to use the program.
pub const USAGE: &str = "\
usage: upstream-moshi MODEL.gguf [--config config.json] [--steps N] [--warm-up N]
                      [--prefill N] [--layers] [--threads N] [--check expected.safetensors]

Times the published Rust crate `moshi` 0.6.4 on the CPU and prints one line of JSON.
--config   sizes in the PyTorch schema (default: config.json beside the model)
--steps    timed steps (default 20), after --warm-up untimed ones (default 3)
--prefill  positions of random history before the first step (default 0)
--layers   the crate's parts in place of its LmModel; implied by --prefill
--threads  default: one a core
--check    compare greedy tokens with a reference in place of timing";

/// Parsed arguments.
pub struct Options {
    pub model: PathBuf,
    pub config: PathBuf,
    pub steps: usize,
    pub warm_up: usize,
    pub prefill: usize,
    pub layers: bool,
    pub threads: Option<usize>,
    pub check: Option<PathBuf>,
}

impl Options {
    /// From the arguments after the program's name; what is wrong otherwise.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut model, mut config, mut check, mut threads) = (None, None, None, None);
        let (mut steps, mut warm_up, mut prefill, mut layers) = (20, 3, 0, false);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--config" => config = Some(PathBuf::from(value()?)),
                "--check" => check = Some(PathBuf::from(value()?)),
                "--steps" => steps = number(&value()?, 1)?,
                "--warm-up" => warm_up = number(&value()?, 0)?,
                "--prefill" => prefill = number(&value()?, 0)?,
                "--threads" => threads = Some(number(&value()?, 1)?),
                "--layers" => layers = true,
                _ if arg.starts_with("--") => return Err(format!("unknown option {arg}")),
                _ if model.is_none() => model = Some(PathBuf::from(arg)),
                _ => return Err(format!("unexpected argument {arg}")),
            }
        }
        let model = model.ok_or("no model given")?;
        Ok(Self {
            config: config.unwrap_or_else(|| model.with_file_name("config.json")),
            model,
            steps,
            warm_up,
            prefill,
            layers: layers || prefill > 0,
            threads,
            check,
        })
    }
}

fn number(text: &str, least: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n >= least => Ok(n),
        _ => Err(format!("{text:?} is not a number of at least {least}")),
    }
}
