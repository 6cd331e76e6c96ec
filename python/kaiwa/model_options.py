"""Options that choose a model and how its tokens are drawn, declared once: the commands and the
settings of the server are made from these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kaiwa.load_options import DTYPES, KV_DTYPES, QUANTIZE
from kaiwa.moshi import Sampling


@dataclass(frozen=True)
class Option:
    """What is known about one option.

    Attributes:
        name: of the attribute that holds its value; the option itself has hyphens.
        kind: `text`, `path`, `flag`, `int`, `float`, `port` or `origins`.
        default: value if it is not given.
        help: what it does, without unit and default.
        metavar: placeholder of its value.
        unit: unit of the number, empty if it has none.
        shown_default: the default in words, if the value does not say it.
        choices: the only values, if not empty.
    """

    name: str
    kind: str
    default: Any
    help: str
    metavar: str = ""
    unit: str = ""
    shown_default: str = ""
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """As it is typed: `--max-seconds`; if it is on by default, the option that turns it off."""
        prefix = "no-" if self.kind == "flag" and self.default else ""
        return f"--{prefix}{self.name.replace('_', '-')}"

    @property
    def description(self) -> str:
        """Its help with unit and default."""
        default = self.shown_default
        if not default and self.kind != "flag" and self.default is not None:
            default = str(self.default)
        notes = [self.unit] if self.unit else []
        notes += [f"default: {default}"] if default else []
        return f"{self.help} ({'; '.join(notes)})" if notes else self.help


#: Which model to load, and how.
MODEL = (
    Option(
        "model",
        "text",
        None,
        "language model: a Hugging Face repository (kyutai/moshika-candle-q8), a folder, or a file",
        metavar="SOURCE",
        shown_default="demo, the small one that comes with Kaiwa",
    ),
    Option(
        "mimi", "text", None, "codec", metavar="SOURCE", shown_default="the one beside the model"
    ),
    Option(
        "tokenizer",
        "path",
        None,
        "SentencePiece model",
        metavar="FILE",
        shown_default="the one beside the model",
    ),
    Option("lora", "text", None, "adapter of moshi-finetune, merged", metavar="SOURCE"),
    Option(
        "revision",
        "text",
        None,
        "branch, tag or commit, if the model is a repository",
        metavar="NAME",
    ),
    Option(
        "device",
        "text",
        "auto",
        "auto, cpu, cuda, cuda:N or metal; auto is the first CUDA device that can be used, else "
        "Metal, else the processor",
        metavar="DEVICE",
    ),
    Option(
        "mimi_device",
        "text",
        None,
        "device of the codec: cpu leaves a GPU to the language model",
        metavar="DEVICE",
        shown_default="that of the model",
    ),
    Option(
        "dtype",
        "text",
        None,
        "dequantise to this type",
        choices=DTYPES,
        shown_default="the file's own form",
    ),
    Option(
        "quantize",
        "text",
        None,
        "round matrices while loading",
        choices=QUANTIZE,
        shown_default="not",
    ),
    Option(
        "kv_dtype",
        "text",
        None,
        "storage of keys and values",
        choices=KV_DTYPES,
        shown_default="bfloat16, or float32 with weights in float32",
    ),
)

#: How tokens are chosen.
SAMPLING = (
    Option("seed", "int", None, "same seed, same answer", metavar="SEED", shown_default="random"),
    Option("temp", "float", None, "temperature of the codebooks; 0 is greedy", metavar="T"),
    Option("temp_text", "float", None, "temperature of the text; 0 is greedy", metavar="T"),
    Option("top_k", "int", None, "candidates of a codebook's draw; 0 is all", metavar="K"),
    Option("top_k_text", "int", None, "candidates of the text's draw; 0 is all", metavar="K"),
)

_BY_NAME = {option.name: option for option in (*MODEL, *SAMPLING)}


def option(name: str) -> Option:
    """The option of a name."""
    return _BY_NAME[name]


def own_default(name: str) -> str:
    """What counts for a sampling option that nobody gave, in words."""
    return f"the model's, else {getattr(Sampling(), name)}"


def loading(values: object) -> dict[str, Any]:
    """The values of `MODEL`, but for the model itself, as arguments of `Duplex.from_pretrained` or
    `Engine`; `values` are parsed arguments, or the server's settings."""
    return {o.name: getattr(values, o.name) for o in MODEL if o.name != "model"}
