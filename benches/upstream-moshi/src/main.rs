//! Times the language model of the published Rust crate `moshi` on the CPU, for comparison.
//!
//! Prints one line of JSON: `load_s`, `step_ms` (one number a timed step of the whole frame:
//! temporal pass, text argmax, every sub-step of the depth transformer), and how it was built.

mod check;
mod conversation;
mod model;
mod options;
mod sizes;

use std::process::ExitCode;
use std::time::Instant;

use candle::Result;
use serde_json::{Value, json};

use conversation::Conversation;
use model::Model;
use options::{Options, USAGE};
use sizes::Sizes;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("upstream-moshi: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(threads) = options.threads {
        // SAFETY: nothing else runs yet; Candle and its pool read the variable later.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    }
    match run(&options) {
        Ok(told) => {
            println!("{told}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("upstream-moshi: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Value> {
    let sizes = Sizes::read(&options.config)?;
    let started = Instant::now();
    let mut model = if options.layers {
        Model::layers(&options.model, &sizes)?
    } else {
        Model::whole(&options.model, &sizes)?
    };
    let load_s = started.elapsed().as_secs_f64();
    let facts = |more: Value| {
        let mut told = json!({
            "peer": "moshi 0.6.4",
            "assembly": if options.layers { "layers" } else { "whole" },
            "dtype": if options.model.extension().is_some_and(|e| e == "gguf") { "q8_0" } else { "float32" },
            "avx512": cfg!(target_feature = "avx512f"),
            "avx2": cfg!(target_feature = "avx2"),
            "threads": candle::utils::get_num_threads(),
            "load_s": load_s,
        });
        if let (Value::Object(told), Value::Object(more)) = (&mut told, more) {
            told.extend(more);
        }
        told
    };
    if let Some(expected) = &options.check {
        let tokens = check::run(&sizes, &mut model, expected)?;
        return Ok(facts(json!({"checked_tokens": tokens})));
    }
    if options.prefill > 0 {
        model.fill(&sizes, options.prefill)?;
    }
    let mut conversation = Conversation::new(&sizes, &mut model);
    let mut step_ms = Vec::with_capacity(options.steps);
    for step in 0..options.warm_up + options.steps {
        let user = user_codes(&sizes, step);
        let started = Instant::now();
        conversation.step(user)?;
        if step >= options.warm_up {
            step_ms.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(facts(
        json!({"prefill": options.prefill, "step_ms": step_ms}),
    ))
}

/// What the user "says" at a step: a fixed rule, so that every run does the same work.
fn user_codes(sizes: &Sizes, step: usize) -> Vec<u32> {
    (0..sizes.n_q - sizes.dep_q)
        .map(|k| (step as u32 * 31 + k as u32 * 17 + 7) % sizes.card)
        .collect()
}
