//! Whether code that was compiled for some generations of GPUs runs on a card.
//!
//! A card runs machine code of its own major generation with a minor one that is not newer
//! (`sm_80` runs on 8.6), of exactly its generation where the code asks for it (`sm_90a`), and
//! portable code (`compute_90`) of its own or an earlier generation, which the driver translates.
//! Anything else is refused when the device is opened: some launches would fail without a word and
//! leave garbage.

/// Compute capability: major and minor number.
pub type Capability = (u32, u32);

/// What a build has code for, such as `["sm_80", "sm_90", "compute_90"]`; empty without CUDA.
pub fn built() -> Vec<&'static str> {
    let targets = option_env!("KAIWA_CUDA_TARGETS").unwrap_or_default();
    targets.split_whitespace().collect()
}

/// Whether code for these targets runs on a card.
pub fn runs_on(targets: &[&str], card: Capability) -> bool {
    targets.iter().any(|target| {
        let (kind, number) = target.split_once('_').unwrap_or_default();
        let exact = number.ends_with(['a', 'f']);
        let Ok(number) = number.trim_end_matches(['a', 'f']).parse::<u32>() else {
            return false;
        };
        let code = (number / 10, number % 10);
        match (kind, exact) {
            ("sm" | "compute", true) => code == card,
            ("sm", false) => code.0 == card.0 && code.1 <= card.1,
            ("compute", false) => code <= card,
            _ => false,
        }
    })
}

/// Why a card cannot be used, or `None` if it can.
pub fn refusal(targets: &[&str], card: Capability) -> Option<String> {
    let (major, minor) = card;
    (!runs_on(targets, card)).then(|| {
        format!(
            "it has compute capability {major}.{minor}, this build has code for {}; build with \
             KAIWA_CUDA_ARCHITECTURES=\"{major}{minor}\" (scripts/gpu/build), or use \"cpu\"",
            if targets.is_empty() {
                "none".to_owned()
            } else {
                targets.join(", ")
            }
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_runs_on_its_own_generation_and_later_minor_ones() {
        assert!(runs_on(&["sm_80"], (8, 0)));
        assert!(runs_on(&["sm_80"], (8, 9)));
        assert!(!runs_on(&["sm_86"], (8, 0)));
        assert!(!runs_on(&["sm_80"], (9, 0)));
        assert!(!runs_on(&["sm_90"], (8, 9)));
        assert!(runs_on(&["sm_120"], (12, 1)));
    }

    #[test]
    fn exact_code_runs_on_one_generation_only() {
        assert!(runs_on(&["sm_90a"], (9, 0)));
        assert!(!runs_on(&["sm_90a"], (10, 0)));
        assert!(!runs_on(&["compute_90a"], (10, 0)));
        assert!(!runs_on(&["sm_90a"], (8, 9)));
    }

    #[test]
    fn portable_code_runs_on_later_generations() {
        let all = ["sm_80", "sm_89", "sm_90", "compute_90"];
        for card in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
            assert!(runs_on(&all, card), "{card:?}");
        }
        for card in [(7, 0), (7, 5)] {
            assert!(!runs_on(&all, card), "{card:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_built_what_is_there_and_what_to_do() {
        assert_eq!(refusal(&["sm_90a"], (9, 0)), None);
        let said = refusal(&["sm_90a"], (8, 6)).unwrap_or_default();
        assert!(said.contains("8.6") && said.contains("sm_90a"), "{said}");
        assert!(said.contains("KAIWA_CUDA_ARCHITECTURES=\"86\""), "{said}");
        assert!(refusal(&[], (9, 0)).is_some_and(|s| s.contains("none")));
        for nonsense in ["", "sm_", "sm_x", "gfx_90", "90"] {
            assert!(!runs_on(&[nonsense], (9, 0)), "{nonsense}");
        }
    }
}
