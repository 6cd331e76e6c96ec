"""Settings: every one by option, variable and file; precedence, refusals, what is printed."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kaiwa.errors import InputError
from kaiwa.server import settings_page, settings_reader
from kaiwa.server.setting import Setting
from kaiwa.server.settings import ServerSettings, settings

ROOT = Path(__file__).parents[2]

NAMES = [setting.name for setting in settings()]

#: For each setting: as typed, as written in TOML, and as it arrives. None is its default.
GIVEN: dict[str, tuple[str, str, Any]] = {
    "model": ("folder/model", '"folder/model"', "folder/model"),
    "mimi": ("kyutai/mimi", '"kyutai/mimi"', "kyutai/mimi"),
    "tokenizer": ("t.model", '"t.model"', "t.model"),
    "lora": ("lora", '"lora"', "lora"),
    "revision": ("v1", '"v1"', "v1"),
    "device": ("cuda:1", '"cuda:1"', "cuda:1"),
    "mimi_device": ("cpu", '"cpu"', "cpu"),
    "dtype": ("bfloat16", '"bfloat16"', "bfloat16"),
    "quantize": ("int4", '"int4"', "int4"),
    "kv_dtype": ("int8", '"int8"', "int8"),
    "warmup": ("no", "false", False),
    "start_seconds": ("5", "5.0", 5.0),
    "seed": ("9223372036854775807", "9223372036854775807", 2**63 - 1),
    "temp": ("0.5", "0.5", 0.5),
    "temp_text": ("1", "1", 1.0),
    "top_k": ("0", "0", 0),
    "top_k_text": ("50", "50", 50),
    "host": ("::1", '"::1"', "::1"),
    "port": ("0", "0", 0),
    "metrics_port": ("9100", "9100", 9100),
    "ssl_cert": ("cert.pem", '"cert.pem"', "cert.pem"),
    "ssl_key": ("key.pem", '"key.pem"', "key.pem"),
    "tunnel": ("1", "true", True),
    "webrtc_ports": ("5000-5009", '"5000-5009"', "5000-5009"),
    "webrtc_address": ("192.0.2.1", '"192.0.2.1"', "192.0.2.1"),
    "webrtc_stun": ("stun:s", '"stun:s"', "stun:s"),
    "webrtc_turn": ("turn:t:1", '"turn:t:1"', "turn:t:1"),
    "webrtc_turn_user": ("u", '"u"', "u"),
    "webrtc_turn_password_file": ("p", '"p"', "p"),
    "keys": ("keys.json", '"keys.json"', "keys.json"),
    "no_auth": ("true", "true", True),
    "insecure": ("on", "true", True),
    "allowed_hosts": ("A.example, ::1", '["a.example", "[::1]"]', ("a.example", "::1")),
    "origin": (
        "https://A.example:443, http://localhost:5173",
        '["https://a.example", "http://localhost:5173/"]',
        ("https://a.example", "http://localhost:5173"),
    ),
    "token_seconds": ("30", "30", 30.0),
    "twilio_auth_token_file": ("t", '"t"', "t"),
    "slots": ("16", "16", 16),
    "max_seconds": ("0", "0", 0.0),
    "idle_seconds": ("12.5", "12.5", 12.5),
    "resume_seconds": ("0", "0", 0.0),
    "queue": ("0", "0", 0),
    "queue_seconds": ("5", "5.0", 5.0),
    "step_budget_ms": ("70", "70", 70.0),
    "drain_seconds": ("10", "10", 10.0),
    "opus_complexity": ("10", "10", 10),
    "redis_url": ("redis://h:6379/0", '"redis://h:6379/0"', "redis://h:6379/0"),
    "redis_password_file": ("p", '"p"', "p"),
    "redis_down": ("closed", '"closed"', "closed"),
    "token_secret_file": ("s", '"s"', "s"),
    "advertise_url": ("http://a:1", '"http://a:1"', "http://a:1"),
    "log_format": ("json", '"json"', "json"),
    "log_level": ("debug", '"debug"', "debug"),
    "audit_log": ("s", '"s"', "s"),
    "otlp_endpoint": ("http://c:4318", '"http://c:4318"', "http://c:4318"),
}

#: What must be given along with a setting.
COMPANION = {
    "ssl_cert": {"ssl_key": "k.pem"},
    "ssl_key": {"ssl_cert": "c.pem"},
    "redis_url": {"token_secret_file": "s"},
}
REDIS = ("--redis-url", "redis://h", "--token-secret-file", "s")
TLS = ("--ssl-cert", "c.pem", "--ssl-key", "k.pem")


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    settings_reader.add_arguments(parser, settings())
    return parser.parse_args(words)


def load(*words: str, environ: dict[str, str] | None = None) -> ServerSettings:
    return ServerSettings.load(parse(*words), environ or {})


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def companions(name: str) -> dict[str, str]:
    return {f"KAIWA_{k.upper()}": v for k, v in COMPANION.get(name, {}).items()}


def test_defaults() -> None:
    found = load()
    assert found == ServerSettings()
    assert (found.host, found.port, found.slots, found.max_seconds) == ("127.0.0.1", 8998, 8, 360)
    assert (found.idle_seconds, found.resume_seconds, found.queue) == (60, 15, 8)
    assert (found.queue_seconds, found.step_budget_ms, found.token_seconds) == (30, 60, 60)
    assert (found.opus_complexity, found.warmup, found.log_format) == (5, True, "text")
    assert (found.model, found.keys, found.seed, found.temp, found.origin) == (None,) * 4 + ((),)


def test_the_table_covers_every_setting() -> None:
    assert list(GIVEN) == NAMES
    assert [field.name for field in dataclasses.fields(ServerSettings)] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_option_variable_and_file_reach_the_same_field(name: str, tmp_path: Path) -> None:
    text, toml, wanted = GIVEN[name]
    setting = next(s for s in settings() if s.name == name)
    assert wanted != setting.default, "the case shows nothing"
    words = [setting.flag] if setting.kind == "flag" else [setting.flag, text]
    config = write(tmp_path / "kaiwa.toml", f"{name} = {toml}\n")
    rest = companions(name)
    by = {
        "option": load(*words, environ=rest),
        "variable": load(environ={setting.variable: text, **rest}),
        "file": load("--config", str(config), environ=rest),
        "file named by a variable": load(environ={"KAIWA_CONFIG": str(config), **rest}),
    }
    for where, found in by.items():
        assert getattr(found, name) == wanted, where
        assert type(getattr(found, name)) is type(wanted), where
    assert len({repr(found) for found in by.values()}) == 1


def test_nearest_source_counts(tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", "port = 1\nslots = 1\nqueue = 1\n")
    environ = {"KAIWA_PORT": "2", "KAIWA_SLOTS": "2", "KAIWA_CONFIG": "/nowhere/at/all"}
    found = load("--config", str(config), "--port", "3", environ=environ)
    assert (found.port, found.slots, found.queue, found.host) == (3, 2, 1, "127.0.0.1")


def test_empty_variables_count_as_not_given() -> None:
    environ = {setting.variable: " " for setting in settings()} | {"KAIWA_CONFIG": ""}
    assert load(environ=environ) == ServerSettings()


def test_variables_that_kubernetes_sets_for_a_service_are_no_ports() -> None:
    environ = {"KAIWA_PORT": "tcp://10.0.0.7:8998", "KAIWA_METRICS_PORT": "tcp://10.0.0.7:9100"}
    assert load(environ=environ) == ServerSettings()


def test_origins_add_up_when_given_several_times() -> None:
    found = load("--origin", "https://a.example", "--origin", "https://b.example,https://a.example")
    assert found.origin == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    ("words", "environ", "says"),
    [
        (["--port", "70000"], {}, "--port: '70000' is not a whole number from 0 to 65535"),
        (["--port", "http"], {}, "--port: 'http' is not a whole"),
        ([], {"KAIWA_PORT": "1e3"}, "KAIWA_PORT: '1e3' is not a whole"),
        ([], {"KAIWA_PORT": "tcp://nonsense"}, "KAIWA_PORT: 'tcp://nonsense' is not"),
        ([], {"KAIWA_SLOTS": "0"}, "KAIWA_SLOTS: '0' is not a whole number from 1 to 1024"),
        (["--max-seconds", "-1"], {}, "--max-seconds: '-1' is not a number from 0"),
        (["--max-seconds", "nan"], {}, "--max-seconds: 'nan' is not a number"),
        (["--queue-seconds", "inf"], {}, "--queue-seconds: 'inf' is not a number"),
        (["--token-seconds", "61"], {}, "from 1 to 60 seconds"),
        ([], {"KAIWA_INSECURE": "maybe"}, "KAIWA_INSECURE: 'maybe' is not true or false"),
        ([], {"KAIWA_LOG_LEVEL": "loud"}, "is not one of debug, info, warning, error"),
        ([], {"KAIWA_QUANTIZE": "int3"}, "KAIWA_QUANTIZE: 'int3' is not one of int8, int4"),
        (["--origin", "example.com"], {}, "--origin: \"['example.com']\" is not a list of origins"),
        (["--origin", "null"], {}, "is not a list of origins"),
        (["--origin", "https://a.example/page"], {}, "is not a list of origins"),
        (["--model", "a\nb"], {}, "--model: 'a\\nb' is not a text of one line"),
        (["--ssl-cert", "c.pem"], {}, "ssl_cert is given without ssl_key"),
        ([], {"KAIWA_SSL_KEY": "k.pem"}, "ssl_key is given without ssl_cert"),
        (["--no-auth"], {"KAIWA_KEYS": "k.json"}, "no_auth and keys are both given"),
        (["--insecure", "--keys", "k.json"], {}, "insecure is given with keys"),
        (["--metrics-port", "8998"], {}, "metrics_port and port are both 8998"),
        (["--redis-url", "redis://h"], {}, "redis_url is given without token_secret_file"),
        (["--redis-url", "h:6379"], {}, "redis_url is no address of Redis"),
        (["--redis-url", "http://h:6379"], {}, "redis_url is no address of Redis"),
        ([], {"KAIWA_REDIS_DOWN": "maybe"}, "is not one of open, closed"),
        ([*REDIS, "--advertise-url", "a:1"], {}, "advertise_url is 'a:1'; give scheme, host"),
        ([*REDIS, "--advertise-url", "http://a:1/x"], {}, "advertise_url is 'http://a:1/x'"),
        ([*REDIS, *TLS], {}, "redis_url and ssl_cert are given without advertise_url"),
        # What another source goes before is looked at all the same.
        (["--port", "1"], {"KAIWA_PORT": "x"}, "KAIWA_PORT: 'x' is not"),
    ],
)
def test_wrong_values_are_refused(words: list[str], environ: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        load(*words, environ=environ)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_second = 1", "unknown key 'max_second'; did you mean 'max_seconds'?"),
        ("max-seconds = 1", "did you mean 'max_seconds'?"),
        ("Port = 1", "did you mean 'port'?"),
        ("zzz = 1", "known are "),
        ("[serve]\nport = 1", "unknown key 'serve'"),
        ("port = ", "is not TOML"),
        ("port = true", "port in FILE: 'True' is not a whole number"),
        ("port = 8998.0", "port in FILE: '8998.0' is not a whole number"),
        ("slots = [8]", "slots in FILE: '[8]' is not a whole number"),
        ("max_seconds = true", "max_seconds in FILE: 'True' is not a number"),
        ("tunnel = 1", "tunnel in FILE: '1' is not true or false"),
        ("model = 5", "model in FILE: '5' is not a text"),
        ('model = ""', "model in FILE: '' is not a text"),
        ("origin = [1]", "is not a list of origins"),
        ("seed = 9223372036854775808", "is not a whole number"),
    ],
)
def test_wrong_files_are_refused(text: str, says: str, tmp_path: Path) -> None:
    config = write(tmp_path / "kaiwa.toml", text)
    with pytest.raises(InputError) as caught:
        load("--config", str(config))
    assert says in str(caught.value).replace(str(config), "FILE")


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path / "missing.toml", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(InputError, match=says):
            load("--config", str(path))
    binary = tmp_path / "weights"
    binary.write_bytes(b"\xff\xfe" * 100)
    with pytest.raises(InputError, match="is not TOML"):
        load("--config", str(binary))
    binary.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(InputError, match="over 1 MiB"):
        load("--config", str(binary))


def test_a_key_in_place_of_a_file_is_refused_and_not_repeated() -> None:
    secret = "kw_" + "a" * 43
    with pytest.raises(InputError, match="give the file's name") as caught:
        load("--keys", secret)
    assert secret not in str(caught.value)


def test_nothing_secret_is_printed() -> None:
    secret = "kw_" + "b" * 43
    found = load("--ssl-cert", "c.pem", "--ssl-key", "where/the.key", "--model", f"x/{secret}")
    shown = found.printable()
    assert list(shown) == NAMES
    assert shown["ssl_key"] == "***"
    assert shown["ssl_cert"] == "c.pem"
    assert shown["port"] == "8998"
    assert shown["keys"] == "-"
    assert shown["redis_url"] == "-"
    for text in (repr(found), str(found), str(shown)):
        assert "the.key" not in text
        assert secret not in text


def test_a_password_in_the_address_of_redis_is_not_printed() -> None:
    found = load("--redis-url", "redis://:pass-word@h:6379/0", "--token-secret-file", "s")
    assert found.printable()["redis_url"] == "***"
    assert "pass-word" not in repr(found)
    with pytest.raises(InputError) as caught:
        load("--redis-url", "redis:/:pass-word@h", "--token-secret-file", "s")
    assert "pass-word" not in str(caught.value)


def test_refusal_of_a_secret_value_does_not_show_it() -> None:
    setting = Setting("word", "text", None, "a word", "test", secret=True)
    with pytest.raises(InputError, match="--word: the value is not") as caught:
        setting.read("un\nspeakable", setting.flag)
    assert "speakable" not in str(caught.value)


def test_home_folder_is_known_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load(environ={"KAIWA_KEYS": "~/keys.json"}).keys == "/home/somebody/keys.json"
    assert ServerSettings(keys=Path("~/k.json")).keys == "/home/somebody/k.json"  # type: ignore[arg-type]


def test_values_are_checked_without_sources_too() -> None:
    with pytest.raises(InputError, match="slots: '0' is not"):
        ServerSettings(slots=0)
    found = ServerSettings(max_seconds=10, origin=("HTTPS://A.example",))
    assert found.origin == ("https://a.example",)
    assert dataclasses.replace(found, max_seconds=0).call_seconds is None


@pytest.mark.parametrize(
    ("given", "call", "drain"),
    [
        ({}, 360, 360),
        ({"max_seconds": 0}, None, None),
        ({"max_seconds": 0, "drain_seconds": 5}, None, 5),
        ({"drain_seconds": 0}, 360, 0),
    ],
)
def test_limits_that_follow(given: dict[str, Any], call: float | None, drain: float | None) -> None:
    found = ServerSettings(**given)
    assert (found.call_seconds, found.drain_limit) == (call, drain)


@pytest.mark.parametrize(
    ("given", "loopback"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "127.8.0.1"}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "192.168.0.2"}, False),
        ({"host": "kaiwa.example"}, False),
        ({"tunnel": True}, False),
    ],
)
def test_who_can_reach_the_server(given: dict[str, Any], loopback: bool) -> None:
    assert ServerSettings(**given).is_loopback is loopback


def test_misspelt_variables_are_found() -> None:
    environ = {
        "KAIWA_MAX_SECOND": "1",
        "KAIWA_PORT": "1",
        "KAIWA_CPU": "avx2",
        "KAIWA_CONFIG": "c",
        "KAIWA_SERVICE_HOST": "10.0.0.1",
        "KAIWA_PORT_8998_TCP_ADDR": "10.0.0.1",
        "PATH": "x",
    }
    assert settings_reader.misspelt(settings(), environ) == [
        "KAIWA_MAX_SECOND is no setting; did you mean KAIWA_MAX_SECONDS?"
    ]


@pytest.mark.parametrize("setting", settings(), ids=NAMES)
def test_every_setting_is_documented(setting: Setting) -> None:
    assert len(setting.help) > 3
    if setting.name.endswith("_seconds"):
        assert setting.unit == "seconds"
    if setting.name.endswith("_ms"):
        assert setting.unit == "milliseconds"
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert f"`{setting.flag}" in page
    assert f"`{setting.variable}" in page


def test_the_page_of_settings_is_current() -> None:
    written = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert written == settings_page.markdown(), (
        "regenerate it: python -m kaiwa.server.settings_page > docs/settings.md"
    )


def test_help_can_be_printed() -> None:
    parser = argparse.ArgumentParser()
    settings_reader.add_arguments(parser, settings())
    text = parser.format_help()
    for setting in settings():
        assert setting.flag in text
