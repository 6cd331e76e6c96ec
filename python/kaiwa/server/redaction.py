"""Removes keys and tokens from text that is logged, wherever they may stand in it."""

from __future__ import annotations

import re

#: Stands in the place of what was removed.
HIDDEN = "***"

#: Keys and tokens of Kaiwa begin with these.
KEY_PREFIX = "kw_"
TOKEN_PREFIX = "kt_"
#: Secrets for browsers, as OpenAI's begin; its package takes no others there.
SECRET_PREFIX = "ek_"

_SECRET = re.compile(r"(?:k[wt]|ek)(?:_|%5f)[A-Za-z0-9_.~%-]{12,}", re.IGNORECASE)

# Parameters of a query that let somebody in, or say who calls and what was told to the model; also
# those of an address within another, where `?`, `&` and `=` are %3F, %26 and %3D.
_PARAMETER = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=%3f)|(?<=%26))"
    r"((?:[a-z]+_)?(?:token|resume|auth_id|api_key|secret|password)|key|email|text_prompt)"
    r"(=|%3d)[^&\s\"'<>#,;)\]}]+",
    re.IGNORECASE,
)

# `Authorization: Bearer x`, as a line, in a dictionary, or as a pair of bytes.
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|cookie|set-cookie)(b?['\"]?\s*[:=,]\s*b?['\"]?)[^\r\n'\"]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_SUBPROTOCOL = re.compile(r"(openai-insecure-api-key\.)[^\s,'\"]+", re.IGNORECASE)

# `"resume_token": "x"` in JSON or in the text of a dictionary.
_MEMBER = re.compile(
    r"(['\"](?:[a-z]+_)?(?:token|secret|api_key|password)['\"]\s*:\s*)(['\"])[^'\"]*\2",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` without keys, tokens and the values of headers and parameters that hold them.

    Redacting the result again changes nothing.
    """
    text = _HEADER.sub(rf"\1\2{HIDDEN}", text)
    text = _SUBPROTOCOL.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    text = _MEMBER.sub(rf"\1\2{HIDDEN}\2", text)
    text = _PARAMETER.sub(rf"\1\2{HIDDEN}", text)
    return _SECRET.sub(HIDDEN, text)
