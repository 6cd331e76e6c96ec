//! Notes for which generations of GPUs this build has code, so that a card can be compared with it
//! when it is opened; builds the simulator of the kernels where it is asked for.

fn main() {
    #[cfg(feature = "cuda-sim")]
    simulator();
    for name in ["KAIWA_CUDA_ARCHITECTURES", "CUDA_COMPUTE_CAP"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let list = |name: &str| std::env::var(name).unwrap_or_default();
    let several = list("KAIWA_CUDA_ARCHITECTURES");
    let targets: Vec<String> = if several.trim().is_empty() {
        // Candle's build alone: machine code of one generation, and from 9.0 on of that one only.
        let one = list("CUDA_COMPUTE_CAP").replace(['.', 'a'], "");
        let exact = one.parse::<u32>().is_ok_and(|n| n >= 90);
        vec![format!("sm_{one}{}", if exact { "a" } else { "" })]
    } else {
        // scripts/gpu/nvcc: machine code of each, and portable code of the newest.
        let numbers: Vec<&str> = several.split_whitespace().collect();
        let mut targets: Vec<String> = numbers.iter().map(|n| format!("sm_{n}")).collect();
        targets.extend(numbers.last().map(|n| format!("compute_{n}")));
        targets
    };
    println!("cargo:rustc-env=KAIWA_CUDA_TARGETS={}", targets.join(" "));
}

/// Compiles the kernels of `cuda/` for the processor.
#[cfg(feature = "cuda-sim")]
fn simulator() {
    println!("cargo:rerun-if-changed=cuda");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("cuda/sim/sim.cpp")
        // What one rounding is, is the source's to say; and it looks at bits through other types.
        .flag("-ffp-contract=off")
        .flag("-fno-strict-aliasing")
        // Unrolling is asked of nvcc.
        .flag("-Wno-unknown-pragmas")
        .opt_level(2)
        .compile("kaiwa_cuda_sim");
}
