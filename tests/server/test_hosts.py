"""A page whose name was pointed at the server (DNS rebinding) gets nothing of a running server."""

from __future__ import annotations

from tests.server.live import program

OPEN = ("--model", "synth:echo", "--host", "0.0.0.0", "--no-auth", "--insecure")


def test_a_name_of_others_is_refused() -> None:
    with program(*OPEN, "--allowed-hosts", "box.example") as served:
        for path in ("/v1/sessions", "/metrics", "/v1/stats"):
            answer = served.ask(path, Host="evil.example", Origin="http://evil.example")
            assert (answer.status, answer.json["error"]["code"]) == (403, "host"), path
            assert "--allowed-hosts" in answer.json["error"]["message"]
            for name in ("localhost", "127.0.0.1:8998", "10.0.0.7", "box.example:80"):
                assert served.ask(path, Host=name).status == 200, (path, name)
        assert served.ask("/healthz", Host="evil.example").status == 200
