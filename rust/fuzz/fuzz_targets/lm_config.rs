//! Any text as a language model's configuration: an error, or sizes that the rest of the crate
//! can rely on.
#![no_main]

use kaiwa_core::lm::LmConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(config) = LmConfig::from_json(text) else {
        return;
    };
    assert_eq!(config.head_dim() * config.num_heads, config.dim);
    assert_eq!(config.delays.len(), config.n_q + 1);
    assert!(config.spoken <= config.dep_q && config.dep_q <= config.n_q);
    assert!(config.max_delay() <= 1000 && config.context > 0);
    if let Some(depth) = &config.depth {
        assert_eq!(depth.schedule.len(), config.dep_q);
        assert_eq!(depth.hidden.len(), depth.sets());
    }
});
