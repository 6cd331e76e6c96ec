"""The data and the network of the training scripts; skipped where PyTorch is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from training.clips import HEARD, WORDS, Clips  # noqa: E402
from training.language import Language, LmSize, export, restore  # noqa: E402

import kaiwa  # noqa: E402
from training import check_language, codec, conversations, mixing, train_lm, words  # noqa: E402

FRAME = mixing.FRAME


def clips(vocabulary: tuple[str, ...], voices: int) -> Clips:
    """A tone of its own for each word, 0.3 s long."""
    tone = np.sin(np.arange(7200) * 0.05).astype(np.float32) * 9000
    made = [(w, f"v{v}") for v in range(voices) for w in vocabulary]
    return Clips(
        audio=np.tile(tone.astype(np.int16), len(made)),
        offsets=np.arange(len(made) + 1) * 7200,
        words=[[WORDS.index(w)] for w, _ in made],
        bounds=[np.array([[0, 7200]]) for _ in made],
        voices=[v for _, v in made],
    )


@pytest.fixture(scope="module")
def made() -> list[conversations.Conversation]:
    callers = conversations.Callers(clips(HEARD, 2))
    own = clips(WORDS, 1)
    return [conversations.converse(np.random.default_rng((3, n)), callers, own) for n in range(40)]


def test_answers_are_the_digits_or_their_sum() -> None:
    plus = WORDS.index("plus")
    word = WORDS.index
    assert conversations.Turn([], [], [4, 4, 2]).answer == [4, 4, 2]
    assert conversations.Turn([], [], [3, plus, 4]).answer == [word("seven")]
    assert conversations.Turn([], [], [3, plus, 7]).answer == [word("ten")]
    assert conversations.Turn([], [], [9, plus, 9]).answer == [word("eighteen")]


def test_text_is_what_was_answered(made: list[conversations.Conversation]) -> None:
    cut = 0
    for one in made:
        wanted = [words.token(WORDS.index("hello"))]
        for e in one.exchanges:
            said = list(one.text[e.answer_frame : e.cut])
            answer = [words.token(w) for w in e.answer]
            got = [int(t) for t in said if t >= words.SPECIAL][: len(answer)]
            assert got == answer[: len(got)]
            cut += e.cut is not None
            if e.cut is None and e.answer_frame + 6 * len(answer) < conversations.FRAMES:
                assert got == answer
            wanted += got
        assert [int(t) for t in one.text if t >= words.SPECIAL][: len(wanted)] == wanted
        first = np.flatnonzero(one.text >= words.SPECIAL)
        assert all(one.text[f - 1] == words.BEGIN for f in first)
    assert cut  # some were interrupted


def test_voices_of_people_are_heard_as_often_as_the_many_others() -> None:
    few = clips(HEARD, 6)
    few.voices = [{"v0": "flite:kal"}.get(v, f"espeak:{v}") for v in few.voices]
    rng = np.random.default_rng(0)
    callers = conversations.Callers(few)
    voices = [callers.voice(rng) for _ in range(400)]
    assert 150 < voices.count("flite:kal") < 250
    assert set(voices) == set(callers.voices)
    found = [few.voices[few.any(rng)] for _ in range(400)]
    assert 150 < found.count("flite:kal") < 250


def test_the_model_listens(made: list[conversations.Conversation]) -> None:
    for one in made:
        for e in one.exchanges:
            # It speaks on for some frames when interrupted, then not before its own answer.
            begin = -(-e.start // FRAME) + conversations.CUT
            assert not one.own[begin * FRAME : e.answer_frame * FRAME].any()
            assert not (one.text[begin : e.answer_frame] >= words.SPECIAL).any()


def test_a_conversation_is_a_function_of_its_number() -> None:
    callers = conversations.Callers(clips(HEARD, 2))
    own = clips(WORDS, 1)
    a, b, c = (
        conversations.converse(np.random.default_rng((1, n)), callers, own) for n in (5, 5, 6)
    )
    assert np.array_equal(a.caller, b.caller)
    assert np.array_equal(a.text, b.text)
    assert not np.array_equal(a.caller, c.caller)


def test_columns_delay_acoustic_codes() -> None:
    model = Language(LmSize(card=30))
    frames = torch.arange(17 * 6).view(1, 17, 6)
    columns = model.columns(frames)
    assert torch.equal(columns[0, [0, 1, 9]], frames[0, [0, 1, 9]])
    assert torch.equal(columns[0, 2, 1:], frames[0, 2, :-1])
    assert (columns[0, [2, 16], 0] == 30).all()


def test_a_step_sees_nothing_of_its_own_frame() -> None:
    torch.manual_seed(0)
    model = Language(LmSize(card=30, context=4))
    frames = torch.randint(0, 20, (1, 17, 12))
    other = frames.clone()
    other[:, 1:, 8] = 25
    with torch.no_grad():
        z, _ = model.hear(model.columns(frames))
        changed, _ = model.hear(model.columns(other))
    differ = (z != changed).any(-1)[0].tolist()
    assert differ[:9] == [False] * 9
    assert differ[9]


def test_kaiwa_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["check_language", "--steps", "30"])
    check_language.main()
    # And the check can fail: another window is noticed.
    torch.manual_seed(1)
    hear = Language.hear

    def shortsighted(self: Any, columns: Any, middle: int = 0) -> Any:
        object.__setattr__(self.size, "context", self.size.context - 1)
        return hear(self, columns, middle)

    monkeypatch.setattr(Language, "hear", shortsighted)
    with pytest.raises(SystemExit, match="do not agree"):
        check_language.main()


def test_what_was_exported_can_be_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = Language(LmSize(dim=64, layers=1, depth_layers=1))
    export(model, tmp_path / "lm")
    back = restore(tmp_path / "lm", model.size).state_dict()
    assert all(torch.equal(value, back[name]) for name, value in model.state_dict().items())
    made = codec.Codec(codec.CodecSize(filters=4, layers=1))
    codec.export(made, tmp_path / "codec")
    found = codec.restore(tmp_path / "codec", made.size).state_dict()
    for name, value in made.state_dict().items():
        assert torch.allclose(value, found[name], atol=1e-6), name


def test_the_exported_folder_reads_its_own_text(tmp_path: Path) -> None:
    export(Language(LmSize()), tmp_path, torch.bfloat16)
    tokenizer = kaiwa.Tokenizer.load(tmp_path / words.FILE)
    first = (tmp_path / words.FILE).read_bytes()
    words.write(tmp_path)
    assert (tmp_path / words.FILE).read_bytes() == first
    assert tokenizer.pieces == words.PIECES
    assert tokenizer.encode("seven three") == [words.token(7), words.token(3)]
    moshi = kaiwa.Moshi.from_pretrained(tmp_path, device="cpu")
    assert (moshi.text_card, moshi.dep_q, moshi.default_sampling.temp) == (words.PIECES, 8, 0.4)


def test_batches_are_functions_of_the_step() -> None:
    frames = np.random.default_rng(0).integers(0, 9, (50, 17, 8)).astype(np.uint16)
    labels = np.zeros((50, 8), np.uint8)
    a, b, c = (train_lm.batch_of(frames, labels, 0, step, 4)[0] for step in (7, 7, 8))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    draws = torch.Generator().manual_seed(0)
    muddled = train_lm.muddled(a, 9, 9, 0.5, draws)
    assert torch.equal(muddled[:, :9], a[:, :9])
    assert not torch.equal(muddled[:, 9:], a[:, 9:])
