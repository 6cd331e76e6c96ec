"""Every setting of `kaiwa serve`, declared once.

Each field is also an option (`--max-seconds`), a variable (`KAIWA_MAX_SECONDS`) and a key of the
file given with `--config` (`max_seconds`, in TOML). What is given nearest counts: option, then
variable, then file, then default. An empty variable counts as not given.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaiwa import model_options
from kaiwa.errors import InputError
from kaiwa.server import origins
from kaiwa.server.redaction import HIDDEN, redact
from kaiwa.server.setting import Setting

if TYPE_CHECKING:
    import argparse

MODEL = "model"
SAMPLING = "sampling"
NETWORK = "network"
ACCESS = "access"
CALLS = "conversations"
REPLICAS = "several servers"
MESSAGES = "messages"

_SEED_END = 2**63 - 1
_DAY = 86_400


def _set(kind: str, default: Any, group: str, what: str, **more: Any) -> Any:
    """A field with what is known about it; its name is added by `settings`."""
    facts = {"kind": kind, "default": default, "group": group, "help": what, **more}
    return dataclasses.field(default=default, metadata=facts)


def _declared(name: str, group: str, **more: Any) -> Any:
    """A field for an option that the commands have too; `more` is what differs for a server."""
    facts = dataclasses.asdict(model_options.option(name)) | {"group": group, **more}
    del facts["name"]
    return dataclasses.field(default=facts["default"], metadata=facts)


def _sampling(name: str, **more: Any) -> Any:
    """A field for how tokens are chosen in calls that say nothing about it."""
    return _declared(name, SAMPLING, shown_default=model_options.own_default(name), **more)


@dataclass(frozen=True, repr=False)
class ServerSettings:
    """The settings of a server. Values are checked and brought into one form when it is made.

    Raises:
        InputError: a setting has a value that it cannot have, or two contradict each other.
    """

    model: str | None = _declared("model", MODEL)
    mimi: str | None = _declared("mimi", MODEL)
    tokenizer: str | None = _declared("tokenizer", MODEL)
    lora: str | None = _declared("lora", MODEL)
    revision: str | None = _declared("revision", MODEL)
    device: str = _declared("device", MODEL)
    mimi_device: str | None = _declared("mimi_device", MODEL)
    dtype: str | None = _declared("dtype", MODEL)
    quantize: str | None = _declared("quantize", MODEL)
    kv_dtype: str | None = _declared("kv_dtype", MODEL)
    warmup: bool = _set(
        "flag",
        True,
        MODEL,
        "do not run the model before the first call, whose first answers then come late",
    )
    start_seconds: float = _set(
        "float",
        900,
        MODEL,
        "the server stops if loading its model makes no progress for this time; a download that "
        "goes on, however slowly, is progress",
        metavar="S",
        unit="seconds",
        low=1,
        high=_DAY,
    )

    seed: int | None = _declared(
        "seed",
        SAMPLING,
        help="seed of calls that send none",
        shown_default="random for each call",
        high=_SEED_END,
    )
    temp: float | None = _sampling("temp", high=100)
    temp_text: float | None = _sampling("temp_text", high=100)
    top_k: int | None = _sampling("top_k")
    top_k_text: int | None = _sampling("top_k_text")

    host: str = _set(
        "text",
        "127.0.0.1",
        NETWORK,
        "address to listen on; 0.0.0.0 is every network of this machine",
        metavar="ADDRESS",
    )
    port: int = _set(
        "port", 8998, NETWORK, "port to listen on; 0 is any free one", metavar="PORT", high=65_535
    )
    metrics_port: int | None = _set(
        "port",
        None,
        NETWORK,
        "port of its own for metrics, and health too, on the same address",
        metavar="PORT",
        high=65_535,
        shown_default="none, they are on the main port",
    )
    ssl_cert: str | None = _set(
        "path", None, NETWORK, "certificate chain (PEM) to serve by TLS", metavar="FILE"
    )
    ssl_key: str | None = _set(
        "path",
        None,
        NETWORK,
        "private key (PEM) of the certificate",
        metavar="FILE",
        secret=True,
    )
    tunnel: bool = _set(
        "flag", False, NETWORK, "make the server reachable from outside through a tunnel"
    )

    webrtc_ports: str | None = _set(
        "text",
        None,
        NETWORK,
        "UDP ports of calls by WebRTC, one a call (50000-50099)",
        metavar="FIRST-LAST",
        shown_default="any free ones",
    )
    webrtc_address: str | None = _set(
        "text",
        None,
        NETWORK,
        "IP address at which clients reach those ports, where that is none of this machine's own "
        "(in a container, behind NAT)",
        metavar="ADDRESS",
        shown_default="the addresses of --host",
    )
    webrtc_stun: str | None = _set(
        "text",
        None,
        NETWORK,
        "STUN server that tells this one its address (stun:HOST:PORT)",
        metavar="URL",
        shown_default="none",
    )
    webrtc_turn: str | None = _set(
        "text",
        None,
        NETWORK,
        "TURN server through which clients can reach calls "
        "(turn:HOST:PORT, turns:HOST:PORT?transport=tcp)",
        metavar="URL",
        shown_default="none",
    )
    webrtc_turn_user: str | None = _set(
        "text", None, NETWORK, "name for the TURN server", metavar="NAME"
    )
    webrtc_turn_password_file: str | None = _set(
        "path",
        None,
        NETWORK,
        "file with the password for the TURN server",
        metavar="FILE",
        secret=True,
    )

    keys: str | None = _set(
        "path",
        None,
        ACCESS,
        "file with the keys of callers (see `kaiwa key`); without it only this machine is served",
        metavar="FILE",
    )
    no_auth: bool = _set(
        "flag", False, ACCESS, "serve without keys beyond this machine; needs --insecure"
    )
    insecure: bool = _set(
        "flag",
        False,
        ACCESS,
        "with --no-auth: everyone who can reach the server is an operator",
    )
    allowed_hosts: tuple[str, ...] = _set(
        "hosts",
        (),
        ACCESS,
        "names by which the server may be called (the Host header), or * for every one; may be "
        "given several times, or separated by commas",
        metavar="NAME",
        shown_default="with keys every name; without, loopback names, the address listened on, "
        "hosts of --origin and, with --insecure, IP addresses",
    )
    origin: tuple[str, ...] = _set(
        "origins",
        (),
        ACCESS,
        "also allow web pages of this origin (https://example.com), or * for every one; may be "
        "given several times, or separated by commas",
        metavar="ORIGIN",
        shown_default="pages of this server only",
    )
    token_seconds: float = _set(
        "float",
        60,
        ACCESS,
        "how long a token, which opens one connection, is valid",
        metavar="S",
        unit="seconds",
        low=1,
        high=60,
    )

    twilio_auth_token_file: str | None = _set(
        "path",
        None,
        ACCESS,
        "file with the auth token of the Twilio account whose phone calls are taken; requests that "
        "it did not sign are refused",
        metavar="FILE",
        secret=True,
        shown_default="none, requests of Twilio need no signature",
    )

    slots: int = _set("int", 8, CALLS, "conversations at once", metavar="N", low=1, high=1024)
    max_seconds: float = _set(
        "float",
        360,
        CALLS,
        "longest conversation; 0 is no limit",
        metavar="S",
        unit="seconds",
        high=30 * _DAY,
    )
    idle_seconds: float = _set(
        "float",
        60,
        CALLS,
        "a call without audio ends after this time; 0 is never",
        metavar="S",
        unit="seconds",
        high=_DAY,
    )
    resume_seconds: float = _set(
        "float",
        15,
        CALLS,
        "a call whose connection is lost keeps its slot for this time and can be taken up again; 0 "
        "is not at all",
        metavar="S",
        unit="seconds",
        high=3600,
    )
    queue: int = _set("int", 8, CALLS, "callers that may wait for a slot", metavar="N", high=10_000)
    queue_seconds: float = _set(
        "float",
        30,
        CALLS,
        "longest wait for a slot",
        metavar="S",
        unit="seconds",
        high=3600,
    )
    step_budget_ms: float = _set(
        "float",
        60,
        CALLS,
        "a caller is let in if a step with it is predicted to stay below this; a frame lasts 80",
        metavar="MS",
        unit="milliseconds",
        low=1,
        high=10_000,
    )
    drain_seconds: float | None = _set(
        "float",
        None,
        CALLS,
        "when told to stop, calls may go on for this time",
        metavar="S",
        unit="seconds",
        high=30 * _DAY,
        shown_default="--max-seconds; without that limit, until they end",
    )
    opus_complexity: int = _set(
        "int",
        5,
        CALLS,
        "effort of the Opus encoder, 1 to 10",
        metavar="N",
        low=1,
        high=10,
    )

    redis_url: str | None = _set(
        "text",
        None,
        REPLICAS,
        "Redis in which servers share limits, used tokens and where lost calls are held "
        "(redis://, rediss:// or unix://); needs --token-secret-file",
        metavar="URL",
        secret=True,
        shown_default="none, this server is the only one",
    )
    redis_password_file: str | None = _set(
        "path", None, REPLICAS, "file with the password of Redis", metavar="FILE", secret=True
    )
    redis_down: str = _set(
        "text",
        "open",
        REPLICAS,
        "new calls while Redis does not answer: with open, each server counts limits for itself; "
        "with closed, calls that have a key are refused",
        choices=("open", "closed"),
    )
    token_secret_file: str | None = _set(
        "path",
        None,
        REPLICAS,
        "file with the secret that signs tokens; with the same file every server accepts the "
        "tokens of all",
        metavar="FILE",
        secret=True,
        shown_default="none, a server accepts only its own tokens",
    )
    advertise_url: str | None = _set(
        "text",
        None,
        REPLICAS,
        "where other servers reach this one (http://10.0.1.5:8998), for calls that they find here",
        metavar="URL",
        shown_default="the address in the network of Redis",
    )

    log_format: str = _set(
        "text", "text", MESSAGES, "form of the log on standard error", choices=("text", "json")
    )
    log_level: str = _set(
        "text",
        "info",
        MESSAGES,
        "least serious messages to log",
        choices=("debug", "info", "warning", "error"),
    )

    audit_log: str | None = _set(
        "path",
        None,
        MESSAGES,
        "file to which each call is written: who, when, by which protocol, how long, never what; - "
        "is standard output",
        metavar="FILE",
        shown_default="none is written",
    )
    otlp_endpoint: str | None = _set(
        "text",
        None,
        MESSAGES,
        "where traces of calls are sent by OTLP over HTTP (http://collector:4318); needs the extra "
        "kaiwa[tracing]",
        metavar="URL",
        shown_default="none are made",
    )

    def __post_init__(self) -> None:
        for setting in settings():
            value = setting.read(getattr(self, setting.name), setting.name)
            object.__setattr__(self, setting.name, value)
        self._check_together()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value in self.printable().items())
        return f"ServerSettings({shown})"

    @classmethod
    def load(
        cls,
        args: argparse.Namespace | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> ServerSettings:
        """The settings from options, variables and the file that one of these names.

        Args:
            args: parsed options of `add_arguments`; None if there are none.
            environ: variables; None is the process's own.

        Raises:
            InputError: a value is wrong, the file cannot be read, or it has an unknown key.
        """
        from kaiwa.server.settings_reader import gather

        return cls(**gather(settings(), args, os.environ if environ is None else environ))

    @property
    def call_seconds(self) -> float | None:
        """Longest conversation in seconds; None is no limit."""
        return self.max_seconds or None

    @property
    def drain_limit(self) -> float | None:
        """Longest drain in seconds; None is until every call has ended."""
        return self.call_seconds if self.drain_seconds is None else self.drain_seconds

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return origins.is_loopback(self.host) and not self.tunnel

    @property
    def is_open(self) -> bool:
        """Whether callers need no key."""
        return self.keys is None

    @property
    def webrtc_port_range(self) -> range | None:
        """UDP ports of calls by WebRTC; None is any."""
        if self.webrtc_ports is None:
            return None
        first, last = map(int, self.webrtc_ports.split("-"))
        return range(first, last + 1)

    @property
    def secure(self) -> bool:
        """Whether the server speaks TLS itself."""
        return self.ssl_cert is not None

    def printable(self) -> dict[str, str]:
        """Every setting as text for a log, secrets hidden."""
        return {setting.name: self._shown(setting) for setting in settings()}

    def _shown(self, setting: Setting) -> str:
        """One value as text."""
        value = getattr(self, setting.name)
        if value is None or value == ():
            return "-"
        if setting.secret:
            return HIDDEN
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float):
            return f"{value:g}"
        return redact(",".join(value) if isinstance(value, tuple) else str(value))

    def _check_together(self) -> None:
        """Settings that exclude or need each other."""
        if (self.ssl_cert is None) != (self.ssl_key is None):
            given, wanted = ("ssl_cert", "ssl_key")[:: 1 if self.ssl_cert else -1]
            raise InputError(f"{given} is given without {wanted}; TLS needs both, or give neither")
        if self.no_auth and self.keys is not None:
            raise InputError(
                "no_auth and keys are both given; leave out --no-auth (KAIWA_NO_AUTH) to ask for "
                "keys, or --keys (KAIWA_KEYS) to serve without"
            )
        if self.insecure and self.keys is not None:
            raise InputError(
                "insecure is given with keys, where it means nothing; leave out --insecure"
            )
        if self.otlp_endpoint is not None and not re.fullmatch(
            r"https?://[^/?#\s@]+(/[^?#\s]*)?", self.otlp_endpoint
        ):
            raise InputError(
                f"otlp_endpoint is {redact(self.otlp_endpoint)!r}; give the address of a collector "
                "(http://collector:4318)"
            )
        self._check_replicas()
        self._check_webrtc()
        if self.metrics_port and self.metrics_port == self.port:
            raise InputError(
                f"metrics_port and port are both {self.port}; give another port, or leave out "
                "metrics_port to have metrics on the main one"
            )

    def _check_webrtc(self) -> None:
        """Where calls by WebRTC are to listen."""
        ports = self.webrtc_ports
        if ports is not None:
            numbers = re.fullmatch(r"(\d{1,5})-(\d{1,5})", ports)
            if numbers is None or not 1024 <= int(numbers[1]) <= int(numbers[2]) <= 65_535:
                raise InputError(
                    f"webrtc_ports is {ports!r}; give the first and the last, from 1024 to 65535 "
                    "(50000-50099)"
                )
        if self.webrtc_address is not None:
            try:
                ipaddress.ip_address(self.webrtc_address)
            except ValueError:
                raise InputError(
                    f"webrtc_address is {self.webrtc_address!r}; give an IP address (203.0.113.7)"
                ) from None
        if self.webrtc_stun is not None and not re.fullmatch(
            r"stun:[^/?#\s@:]+(:\d{1,5})?", self.webrtc_stun
        ):
            raise InputError(
                f"webrtc_stun is {redact(self.webrtc_stun)!r}; give stun:HOST or stun:HOST:PORT"
            )
        if self.webrtc_turn is not None and not re.fullmatch(
            r"turns?:[^/?#\s@:]+(:\d{1,5})?(\?transport=(udp|tcp))?", self.webrtc_turn
        ):
            raise InputError(
                f"webrtc_turn is {redact(self.webrtc_turn)!r}; give turn:HOST:PORT or "
                "turns:HOST:PORT?transport=tcp, and name and password by settings of their own"
            )

    def _check_replicas(self) -> None:
        """What servers need to know one another."""
        if self.redis_url is None:
            return
        if not re.fullmatch(r"(rediss?://[^/\s]+(/\d*)?|unix:///\S+)(\?\S*)?", self.redis_url):
            raise InputError(
                "redis_url is no address of Redis; give redis://HOST:PORT/DATABASE, rediss://... "
                "or unix:///PATH"
            )
        if self.token_secret_file is None:
            raise InputError(
                "redis_url is given without token_secret_file, by which servers know what others "
                "signed; make a file with `openssl rand -base64 48`, and give it to every server"
            )
        if self.advertise_url is None and self.secure:
            raise InputError(
                "redis_url and ssl_cert are given without advertise_url; give the name that other "
                "servers reach this one by and the certificate is for (https://a.example:8998)"
            )
        if self.advertise_url is not None and not re.fullmatch(
            r"https?://[^/?#\s@]+", self.advertise_url
        ):
            raise InputError(
                f"advertise_url is {redact(self.advertise_url)!r}; give scheme, host and port only "
                "(http://10.0.1.5:8998)"
            )


def settings() -> tuple[Setting, ...]:
    """Every setting, in the order in which they are shown."""
    return _SETTINGS


_SETTINGS = tuple(
    Setting(name=field.name, **field.metadata) for field in dataclasses.fields(ServerSettings)
)
