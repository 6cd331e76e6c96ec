"""The file of keys: what is kept, changes by several at once, reading again, damage."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaiwa.errors import InputError
from kaiwa.server import key_edits, key_format
from kaiwa.server import keys as key_files
from kaiwa.server.access import Access
from kaiwa.server.key_entry import Key
from kaiwa.server.keys import KeyFile, is_mounted, read
from kaiwa.server.settings import ServerSettings

from .conftest import NEW_YEAR, MakeKey

if sys.platform != "win32":
    import fcntl

LIMITS: dict[str, Any] = {
    "concurrency": 2,
    "per_minute": 30,
    "max_seconds": 12.5,
    "operator": True,
    "protocols": ("kyutai", "live"),
    "models": ("moshika",),
}


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def put(path: Path, entries: object, **more: object) -> None:
    """Writes the file by hand, in place."""
    value = {"format": "kaiwa-keys", "version": 1, "keys": entries, **more}
    path.write_text(json.dumps(value), encoding="utf-8")


def entry(number: int = 1, **more: object) -> dict[str, Any]:
    return {
        "id": f"{number:016x}",
        "name": f"caller{number}",
        "hash": f"{number:064x}",
        "created": "2030-01-01T00:00:00Z",
        **more,
    }


def test_a_key_is_found_again_with_all_its_limits(key_path: Path) -> None:
    made, secret = key_edits.add(key_path, "alice", NEW_YEAR, **LIMITS)
    found = KeyFile(key_path).verify(secret)
    assert found == made
    assert found is not None
    assert {name: getattr(found, name) for name in LIMITS} == LIMITS
    assert found.created == "2030-01-01T00:00:00Z"
    assert KeyFile(key_path).get(made.id) == made


def test_keys_are_random_and_long(make_key: MakeKey) -> None:
    keys = [make_key(f"k{n}") for n in range(8)]
    assert len(set(keys)) == 8
    for key in keys:
        assert key.startswith("kw_")
        assert len(key) == 3 + 43  # 256 bits in base64


def test_only_the_hash_is_kept(make_key: MakeKey, key_path: Path) -> None:
    secret = make_key("alice")
    text = key_path.read_text(encoding="utf-8")
    assert secret not in text
    assert secret[3:] not in text
    assert content(key_path)["keys"][0]["hash"] == hashlib.sha256(secret.encode()).hexdigest()
    assert content(key_path)["format"] == "kaiwa-keys"
    assert content(key_path)["version"] == 1


def test_neither_key_nor_hash_is_printed(make_key: MakeKey, key_path: Path) -> None:
    secret = make_key("alice")
    keys = KeyFile(key_path)
    for text in (repr(keys), repr(keys.verify(secret)), str(keys.entries())):
        assert secret not in text
        assert hashlib.sha256(secret.encode()).hexdigest() not in text


def test_wrong_keys_are_not_found(make_key: MakeKey, key_path: Path) -> None:
    secret = make_key("alice")
    keys = KeyFile(key_path)
    for wrong in ("", "kw_", secret[:-1], secret + "x", secret.upper(), "kw_" + "a" * 43):
        assert keys.verify(wrong) is None
    assert keys.verify(hashlib.sha256(secret.encode()).hexdigest()) is None
    assert keys.verify("kw_\udc80\ud800é") is None
    assert keys.get("") is None


def test_lookups_compare_hashes_in_constant_time(
    make_key: MakeKey, key_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = make_key("alice")
    keys = KeyFile(key_path)
    seen: list[tuple[str, str]] = []

    def compare(a: str, b: str) -> bool:
        seen.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert keys.verify(secret) is not None
    assert keys.verify("kw_wrong") is None
    # A comparison of two hashes of full length in either case, never of keys.
    assert [(len(a), len(b)) for a, b in seen] == [(64, 64), (64, 64)]


def test_revoked_keys_stay_in_the_file(make_key: MakeKey, key_path: Path) -> None:
    secret = make_key("alice")
    key_edits.revoke(key_path, "alice", NEW_YEAR + 61)
    found = KeyFile(key_path).verify(secret)
    assert found is not None
    assert found.revoked == "2030-01-01T00:01:01Z"
    with pytest.raises(InputError, match="revoked already"):
        key_edits.revoke(key_path, "alice", NEW_YEAR)
    # The name may be used again; the old key stays worth nothing.
    again = make_key("alice")
    keys = KeyFile(key_path)
    assert [key.revoked is None for key in keys.entries()] == [False, True]
    assert [(keys.verify(s) or Key("", "", "", "")).revoked is None for s in (secret, again)] == [
        False,
        True,
    ]


def test_two_keys_cannot_have_one_name(make_key: MakeKey, key_path: Path) -> None:
    make_key("alice")
    before = key_path.read_bytes()
    with pytest.raises(InputError, match="has a key named alice already"):
        make_key("alice")
    assert key_path.read_bytes() == before


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "ä", "a/b", "a" * 65, 'a"', "a\n", "kw=1"])
def test_names_that_are_not_allowed(name: str, make_key: MakeKey, key_path: Path) -> None:
    with pytest.raises(InputError, match="is no name of a key"):
        make_key(name)
    assert not key_path.exists()


@pytest.mark.parametrize(
    "limit", [{"concurrency": 0}, {"per_minute": -1}, {"max_seconds": 0}, {"concurrency": 1.5}]
)
def test_limits_that_are_not_allowed(
    limit: dict[str, Any], make_key: MakeKey, key_path: Path
) -> None:
    with pytest.raises(InputError, match=f"has a bad {next(iter(limit))}; give a positive number"):
        make_key("alice", **limit)
    assert not key_path.exists()


def test_unknown_names_cannot_be_revoked(make_key: MakeKey, key_path: Path) -> None:
    make_key("alice")
    with pytest.raises(InputError, match="has no key named bob"):
        key_edits.revoke(key_path, "bob", NEW_YEAR)
    with pytest.raises(InputError, match="there is no file of keys"):
        key_edits.revoke(key_path.with_name("other.json"), "bob", NEW_YEAR)


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_the_file_is_for_its_owner_only(make_key: MakeKey, key_path: Path) -> None:
    make_key("alice")
    assert key_path.stat().st_mode & 0o777 == 0o600
    # A group that was allowed to read stays so; others and writers do not.
    key_path.chmod(0o666)
    make_key("bob")
    assert key_path.stat().st_mode & 0o777 == 0o640
    key_edits.revoke(key_path, "bob", NEW_YEAR)
    assert key_path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in key_path.parent.glob("*.part*")] == []


def test_a_link_is_followed(make_key: MakeKey, key_path: Path) -> None:
    real = key_path.with_name("real.json")
    key_path.symlink_to(real)
    make_key("alice")
    make_key("bob")
    assert key_path.is_symlink()
    assert [key.name for key in read(real)] == ["alice", "bob"]


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; create it first"):
        key_edits.add(tmp_path / "no" / "keys.json", "alice", NEW_YEAR)


def test_a_damaged_file_is_not_overwritten(key_path: Path, make_key: MakeKey) -> None:
    key_path.write_text('{"format": "kaiwa-keys", "version": 1, "keys": [', encoding="utf-8")
    before = key_path.read_bytes()
    with pytest.raises(InputError, match="is damaged: it is not JSON"):
        make_key("alice")
    assert key_path.read_bytes() == before


def test_several_programs_at_once_lose_no_key(key_path: Path) -> None:
    code = (
        "import sys\n"
        "from kaiwa.server import key_edits\n"
        "for n in range(6):\n"
        "    key_edits.add(sys.argv[1], f'{sys.argv[2]}{n}', 0.0)\n"
        "    if n % 2:\n"
        "        key_edits.revoke(sys.argv[1], f'{sys.argv[2]}{n}', 1.0)\n"
    )
    programs = [
        subprocess.Popen([sys.executable, "-c", code, str(key_path), letter]) for letter in "abcd"
    ]
    # Meanwhile a reader never sees half a file.
    while any(program.poll() is None for program in programs):
        if key_path.exists():
            read(key_path)
    assert [program.returncode for program in programs] == [0] * 4
    keys = read(key_path)
    assert sorted(key.name for key in keys) == sorted(f"{x}{n}" for x in "abcd" for n in range(6))
    assert sum(key.revoked is not None for key in keys) == 12


def test_changes_are_seen(make_key: MakeKey, key_path: Path) -> None:
    first = make_key("alice")
    keys = KeyFile(key_path)
    assert keys.refresh() is False
    second = make_key("bob")
    found = keys.verify(second)
    assert found is not None
    assert found.name == "bob"
    key_edits.revoke(key_path, "alice", NEW_YEAR)
    revoked = keys.verify(first)
    assert revoked is not None
    assert revoked.revoked is not None
    assert keys.refresh() is False


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("", encoding="utf-8"),
        lambda path: path.write_text("{", encoding="utf-8"),
        lambda path: put(path, [{"name": "x"}]),
        lambda path: put(path, [], version=2),
    ],
    ids=["missing", "empty", "half", "bad entry", "newer"],
)
def test_damage_keeps_the_former_keys_and_warns_once(
    damage: Callable[[Path], object],
    make_key: MakeKey,
    key_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="kaiwa")
    secret = make_key("alice")
    keys = KeyFile(key_path)
    good = key_path.read_bytes()
    damage(key_path)
    for _ in range(5):
        assert keys.verify(secret) is not None
        assert keys.refresh() is False
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "until then the keys read before go on counting" in warnings[0].getMessage()
    assert secret not in caplog.text
    # Whole again, and damaged again: told again.
    key_path.write_bytes(good)
    key_path.chmod(0o600)
    assert keys.refresh() is True
    damage(key_path)
    assert keys.verify(secret) is not None
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 2


def test_a_damaged_file_is_parsed_once(
    make_key: MakeKey, key_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call and every look at the live calls asks for the keys."""
    secret = make_key("alice")
    keys = KeyFile(key_path)
    parsed: list[bytes] = []
    decode = key_format.decode

    def count(data: bytes, name: str) -> tuple[Key, ...]:
        parsed.append(data)
        return decode(data, name)

    monkeypatch.setattr(key_format, "decode", count)
    for text in ("{", "{}"):
        key_path.write_text(text, encoding="utf-8")
        for _ in range(5):
            assert keys.verify(secret) is not None
    assert parsed == [b"{", b"{}"]


def test_a_file_that_could_not_be_read_for_a_moment_is_read_again(
    make_key: MakeKey, key_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key("alice")
    keys = KeyFile(key_path)
    other = make_key("bob")

    def failing(path: Path) -> bytes:
        raise InputError("it cannot be read: Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(key_files, "_content", failing)
        assert keys.verify(other) is None
    assert keys.verify(other) is not None


def test_a_change_that_keeps_the_size_is_seen(key_path: Path) -> None:
    put(key_path, [entry(1, concurrency=1)])
    os.utime(key_path, ns=(10**18, 10**18))
    keys = KeyFile(key_path)
    put(key_path, [entry(1, concurrency=2)])
    assert keys.entries()[0].concurrency == 2


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_a_file_that_others_may_write_is_warned_of(
    make_key: MakeKey, key_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_key("alice")
    key_path.chmod(0o620)
    KeyFile(key_path)
    assert "run chmod 600" in caplog.text


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([7], "key 1 is no object"),
        ([entry(), {**entry(2), "concurency": 1}], "key 2 has the unknown member 'concurency'"),
        ([{k: v for k, v in entry().items() if k != "hash"}], "key 1 has no hash"),
        ([entry(hash="A" * 64)], "key 1 has a bad hash"),
        ([entry(hash="kw_secret")], "key 1 has a bad hash"),
        ([entry(name="a b")], "key 1 has a bad name"),
        ([entry(id="no")], "key 1 has a bad id"),
        ([entry(created="yesterday")], "key 1 has a bad created"),
        ([entry(revoked=True)], "key 1 has a bad revoked"),
        ([entry(operator=1)], "key 1 has a bad operator"),
        ([entry(concurrency=True)], "key 1 has a bad concurrency"),
        ([entry(per_minute=0)], "key 1 has a bad per_minute"),
        ([entry(max_seconds=float("inf"))], "key 1 has a bad max_seconds"),
        ([entry(max_seconds="9")], "key 1 has a bad max_seconds"),
        ([entry(protocols="kyutai")], "key 1 has a bad protocols"),
        ([entry(models=[1])], "key 1 has a bad models"),
        ([entry(1), entry(1, id="f" * 16, name="b")], "two keys have the same hash"),
        ([entry(1), entry(2, id=f"{1:016x}")], "two keys have the same id"),
        ([entry(1), entry(2, name="caller1")], "two keys have the same name"),
        ({}, "its version or its list of keys is missing"),
    ],
)
def test_bad_files(entries: object, says: str, key_path: Path) -> None:
    put(key_path, entries)
    with pytest.raises(InputError) as caught:
        KeyFile(key_path)
    assert says in str(caught.value)
    assert "kw_secret" not in str(caught.value)


def test_files_of_another_kind(key_path: Path, tmp_path: Path) -> None:
    for text, says in (
        ('{"keys": []}', "is no file of keys"),
        ("[]", "is no file of keys"),
        ("null", "is no file of keys"),
        ("[" * 100_000, "is damaged: it is not JSON"),
        ("\x00", "is damaged: it is not JSON"),
    ):
        key_path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=says):
            read(key_path)
    key_path.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(InputError, match="is damaged: it is not JSON"):
        read(key_path)
    put(key_path, [], version=2)
    with pytest.raises(InputError, match=r"has version 2 .* knows 1; update Kaiwa"):
        read(key_path)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read(tmp_path)
    with pytest.raises(InputError, match="is no file of keys"):
        key_format.decode(b" " * (key_format.MAX_BYTES + 1), "big")


@pytest.mark.parametrize(
    ("limits", "protocol", "model", "ok"),
    [
        ({}, "kyutai", "moshika", True),
        ({"protocols": ("kyutai",)}, "kyutai", "moshika", True),
        ({"protocols": ("kyutai",)}, "live", "moshika", False),
        ({"protocols": ("kyutai",)}, None, "moshika", False),
        ({"models": ("moshika",)}, "kyutai", None, False),
        ({"models": ("moshika",)}, "kyutai", "moshika", True),
        ({}, None, None, True),
        ({"models": ("moshiko",)}, "kyutai", "moshika", False),
        ({"models": ()}, "kyutai", "moshika", False),
    ],
)
def test_what_a_key_is_for(
    limits: dict[str, Any], protocol: str | None, model: str | None, ok: bool
) -> None:
    assert Key("1", "a", "h", "t", **limits).allows(protocol, model) is ok


MOUNTED = """
import logging, os, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from kaiwa.server import key_edits
from kaiwa.server.keys import KeyFile
outside, inside = sys.argv[1:]
secret = key_edits.add(outside, "alice", 0)[1]
open(inside, "x").close()
assert os.system(f"mount --bind {outside} {inside}") == 0, "no mount"
keys = KeyFile(inside)
key_edits.revoke(outside, "alice", 1)
print("revoked", keys.verify(secret).revoked is not None)
added = key_edits.add(inside, "bob", 2)[1]
print("added", KeyFile(outside).verify(added).name, keys.verify(added).name)
os.replace(os.path.dirname(inside) + "/other", outside)
keys.verify(secret), keys.verify(secret)
"""


def test_a_file_that_is_mounted_by_itself(tmp_path: Path) -> None:
    """As into a container: what is changed on either side is seen on the other."""
    for name in ("outside", "inside"):
        (tmp_path / name).mkdir()
    (tmp_path / "inside" / "other").write_text("{}")
    words = ["unshare", "--mount", sys.executable, "-c", MOUNTED]
    files = [str(tmp_path / name / "keys.json") for name in ("outside", "inside")]
    try:
        done = subprocess.run(
            [*words, *files], capture_output=True, text=True, timeout=60, check=False
        )
    except FileNotFoundError:
        pytest.skip("no program unshare on this machine")
    if "unshare failed" in done.stderr or "no mount" in done.stderr:
        pytest.skip("nothing may be mounted here")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "mounted by itself: a program that replaces it outside is not noticed" in lines[0]
    assert lines[1:3] == ["revoked True", "added bob bob"]
    assert "was replaced outside" in lines[3]
    assert len(lines) == 4


def test_names_of_mount_points(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    name = str(tmp_path / "my keys.json").replace(" ", "\\040")
    table.write_text(f"36 35 98:0 /a {name} rw shared:1 - ext4 /dev/root rw\n")
    assert is_mounted(tmp_path / "my keys.json", str(table))
    assert not is_mounted(tmp_path / "keys.json", str(table))
    assert not is_mounted(tmp_path / "keys.json", str(tmp_path / "none"))


@pytest.mark.skipif(sys.platform == "win32", reason="locks are of POSIX")
def test_a_file_that_is_being_written_is_read_afterwards(
    make_key: MakeKey, key_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_key("alice")
    keys = KeyFile(key_path)
    whole = key_path.read_bytes()
    with key_path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(10)
        assert not keys.refresh()
        file.write(whole.replace(b"alice", b"carol"))
        file.flush()
    assert [key.name for key in keys.entries()] == ["carol"]
    assert "damaged" not in caplog.text


def test_a_full_disk_leaves_the_keys_as_they_were(
    make_key: MakeKey, key_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key("alice")
    before = key_path.read_bytes()
    calls: list[int] = []

    def full(handle: int, offset: int, size: int) -> None:
        calls.append(size)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="No space left on device"):
        make_key("bob")
    assert key_path.read_bytes() == before


async def test_a_large_file_is_read_beside_the_event_loop(
    make_key: MakeKey, key_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each change, a damaged one too."""
    first = make_key("alice")
    access = Access(ServerSettings(keys=str(key_path)))
    await access.follow_keys()
    threads: list[int] = []
    decode = key_format.decode

    def slow(data: bytes, name: str) -> tuple[Key, ...]:
        threads.append(threading.get_ident())
        return decode(data, name)

    monkeypatch.setattr(key_format, "decode", slow)
    headers = {"authorization": f"Bearer {first}"}
    key_path.write_bytes(b"{" + b" " * 1000)
    for _ in range(5):
        assert access.authorize(headers, {}, 0.0).name == "alice"
        await access.follow_keys()
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()
