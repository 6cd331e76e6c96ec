"""Phone calls: media streams of telephony providers (docs/spec/protocols.md 4)."""
