//! Notes for which generations of GPUs this build has code, so that a card can be compared with it
//! when it is opened; compiles the CUDA kernels, for a card with the feature `cuda` and for the
//! processor with `cuda-sim`.

fn main() {
    #[cfg(feature = "cuda-sim")]
    simulator();
    for name in ["KAIWA_CUDA_ARCHITECTURES", "CUDA_COMPUTE_CAP"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    #[cfg(feature = "cuda")]
    fatbin();
}

/// What there is code for, when the compiler was asked for `one` generation.
#[cfg(feature = "cuda")]
fn targets(one: &cudaforge::GpuArch) -> Vec<String> {
    let several = std::env::var("KAIWA_CUDA_ARCHITECTURES").unwrap_or_default();
    let numbers: Vec<&str> = several.split_whitespace().collect();
    match numbers.last() {
        // Candle's build alone: machine code of one generation, and from 9.0 on of that one only.
        None => vec![one.to_nvcc_arch()],
        // scripts/gpu/nvcc: machine code of each, and portable code of the newest.
        Some(newest) => {
            let each = numbers.iter().map(|n| format!("sm_{n}"));
            each.chain([format!("compute_{newest}")]).collect()
        }
    }
}

/// Compiles the kernels of `cuda/` for cards, with the compiler and for the generation that
/// Candle's kernels are compiled with and for.
#[cfg(feature = "cuda")]
fn fatbin() {
    use std::path::PathBuf;
    use std::process::Command;

    println!("cargo:rerun-if-changed=cuda");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let remedy = "set NVCC or CUDA_HOME to NVIDIA's toolkit, or source scripts/gpu/toolkit, which \
                  brings it from PyPI";
    let toolkit = cudaforge::CudaToolkit::detect()
        .unwrap_or_else(|e| panic!("the feature `cuda` needs nvcc ({e}); {remedy}"));
    let generation = cudaforge::detect_compute_cap().unwrap_or_else(|e| {
        panic!("for which GPUs? ({e}); set CUDA_COMPUTE_CAP, such as 90, or {remedy}")
    });
    let targets = targets(&generation).join(" ");
    println!("cargo:rustc-env=KAIWA_CUDA_TARGETS={targets}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let mut nvcc = Command::new(&toolkit.nvcc_path);
    // Products and sums are rounded one by one, as on the processor: -fmad=false.
    nvcc.args(["-std=c++17", "-O3", "-fmad=false", "--threads=0", "-fatbin"])
        .arg(generation.to_gencode_arg())
        .args(["cuda/kernels.cu", "-o"])
        .arg(out.join("kernels.fatbin"));
    match nvcc.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{nvcc:?} ended with {status}"),
        Err(e) => panic!(
            "{} could not be started ({e}); {remedy}",
            toolkit.nvcc_path.display()
        ),
    }
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
