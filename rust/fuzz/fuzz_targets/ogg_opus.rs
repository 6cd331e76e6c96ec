//! Any bytes as what a caller says in Ogg/Opus, in messages of any size: packets of bounded size, and no
//! more than a second of finite audio a message.
#![no_main]

use kaiwa_core::audio::{OggReader, OpusReader, Packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let size = 1 + usize::from(*first) * 16;
    let (mut reader, mut packets) = (OggReader::default(), Vec::new());
    for piece in data.chunks(size) {
        reader.read(piece, &mut packets);
    }
    for packet in &packets {
        assert!(!matches!(packet, Packet::Audio(bytes) if bytes.len() > 16 << 10));
    }
    let mut opus = OpusReader::new().expect("libopus has memory");
    let mut pcm = Vec::new();
    for piece in data.chunks(size) {
        let before = pcm.len();
        opus.read(piece, &mut pcm);
        assert!(pcm.len() - before <= 24_000);
    }
    assert!(pcm.iter().all(|sample| sample.is_finite()));
});
