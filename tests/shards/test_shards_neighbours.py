"""Another user reaches nothing of a local cluster; clusters without TLS are not joined unasked."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.shards import joining, unix_comm
from gpuscan.shards.dask_transport import local_cluster
from gpuscan.shards.joining import joining_security, scheduler_address
from gpuscan.shards.sharded_store import ShardedStore
from processes import family, listening
from sharded_runs import assert_same_run, machine, run, single

STRANGER = 65534

# Prints what it could connect to; the scheduler, the workers and the nannies are all among them.
BECOME_ANOTHER = f"os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})"
ATTACK = (
    f"import os, socket, sys; {BECOME_ANOTHER}"
    """
for path in sys.argv[1:]:
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            print("reached", path)
    except OSError as error:
        print(type(error).__name__)
"""
)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_reaches_neither_scheduler_nor_workers_nor_nannies() -> None:
    with local_cluster(2) as (transport, scratch):
        sockets = sorted((scratch.parent / "sockets").iterdir())
        assert len(sockets) == 5, "a scheduler, two workers, two nannies"
        assert listening(family(os.getpid())) == [], "nothing but these may listen"
        command = [sys.executable, "-c", ATTACK, *map(str, sockets)]
        done = subprocess.run(command, text=True, capture_output=True, check=True)
        assert done.stdout.split() == ["PermissionError"] * 5
        command[2] = ATTACK.replace(BECOME_ANOTHER, "")
        done = subprocess.run(command, text=True, capture_output=True, check=True)
        assert done.stdout.count("reached") == 5, "it is the user that makes the difference"
        with ShardedStore(machine(1), device="cpu", n_shards=2, transport=transport, n_threads=1) as store:
            store.load_pages(store.page_map.present_bits())
            assert_same_run(run(store, 2, seed=5), single(2, 5, machine(1)))


def test_who_is_not_us_is_turned_away_where_the_directory_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = socket.socketpair()
    with one, other:
        unix_comm._check_peer(one)
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
        with pytest.raises(PermissionError, match=f"belongs to user {os.getuid()}"):
            unix_comm._check_peer(one)


def test_silent_and_noisy_connections_of_our_own_do_not_stall_it() -> None:
    with local_cluster(1) as (transport, scratch):
        held = []
        for path in (scratch.parent / "sockets").iterdir():
            for junk in (b"", b"\xff" * 4096):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(path))
                sock.sendall(junk)
                held.append(sock)
        with ShardedStore(machine(1), device="cpu", n_shards=1, transport=transport, n_threads=1) as store:
            store.load_pages(store.page_map.present_bits())
            assert_same_run(run(store, 2, seed=5), single(2, 5, machine(1)))
        for sock in held:
            sock.close()


@pytest.mark.parametrize("given", ["tcp://127.0.0.1:8786", "127.0.0.1:8786", "ws://127.0.0.1:8786"])
def test_what_is_not_tls_is_refused_unless_it_is_said(given: str) -> None:
    with pytest.raises(InputError, match=r"is not tls://.* or say --insecure"):
        scheduler_address(given, without_tls=False, timeout_s=0)
    assert scheduler_address(given, without_tls=True, timeout_s=0).endswith("127.0.0.1:8786")
    assert scheduler_address("tls://[::1]:8786", without_tls=False, timeout_s=0) == "tls://[::1]:8786"


def test_a_scheduler_file_is_no_way_round(tmp_path: Path) -> None:
    file = tmp_path / "dask.json"
    file.write_text(json.dumps({"address": "tcp://127.0.0.1:1"}))
    with pytest.raises(InputError, match=r"tcp://127.0.0.1:1 in .*dask.json is not tls://"):
        scheduler_address(str(file), without_tls=False, timeout_s=0)
    for address in ("tls://a:1/../x", "x" * 1000, "tls://a b:1", "unix:///tmp/x:1"):
        file.write_text(json.dumps({"address": address}))
        with pytest.raises(InputError, match="is not the address of a Dask scheduler; give one"):
            scheduler_address(str(file), without_tls=True, timeout_s=0)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("fifo", "is a FIFO, not a file"),
        ("large", "is larger than it can be"),
        ("deep", "no Dask scheduler has written"),
        ("directory", "is a directory, not a file"),
    ],
)
def test_a_scheduler_file_may_be_anything(tmp_path: Path, kind: str, said: str) -> None:
    file = tmp_path / "dask.json"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    else:
        file.write_bytes(b"[" * (100_000 if kind == "deep" else joining._FILE_BYTES_MAX + 1))
    with pytest.raises(InputError, match=said):
        scheduler_address(str(file), without_tls=False, timeout_s=0.1)


def test_tls_needs_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import dask

    with pytest.raises(InputError, match=r"configured without distributed\.comm\.tls\.ca-file and"):
        joining_security("tls://127.0.0.1:1")
    settings = dict.fromkeys(joining._TLS.values(), str(tmp_path / "nowhere.pem"))
    with dask.config.set(settings), pytest.raises(InputError, match="cannot be used"):
        joining_security("tls://127.0.0.1:1")


@pytest.mark.parametrize("command", ["run", "resume"])
def test_every_front_door_refuses(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    arguments = ["run", "cxl-promote", "--memory", "1GiB", "--ticks", "2", "--quiet"]
    if command == "resume":
        assert main([*arguments, "--checkpoint", str(state), "--every", "1"]) == 0
        arguments = ["resume", str(state), "--quiet"]
    capsys.readouterr()
    assert main([*arguments, "--cluster", "tcp://127.0.0.1:1"]) == 2
    assert "is not tls://" in capsys.readouterr().err
