"""The known peers of a node. They are stored in memory, or in a file in the state folder."""

from __future__ import annotations

import asyncio
import fcntl

import pytest

from fractal_rm.adapters.memory import MemoryKnownPeers, QuietTelemetry
from fractal_rm.adapters.peers.known import FILE, MAX_ADDRESSES, RETRY_WRITE_S, KnownPeersFile

ADDRESS, OTHER_ADDRESS = "http://10.0.0.7:5000/startrm", "http://10.0.0.8:5000/startrm a.local"


def peers_file(state, telemetry=None, now_s=lambda: 0.0) -> KnownPeersFile:
    return KnownPeersFile(state, telemetry or QuietTelemetry(), now_s)


@pytest.fixture(params=["memory", "file"])
def known_peers(request, tmp_path):
    if request.param == "memory":
        return MemoryKnownPeers()
    return peers_file(tmp_path)


async def test_an_address_is_known_after_it_is_added_and_until_it_is_removed(known_peers):
    assert not known_peers.has(ADDRESS)
    for _ in range(2):
        await known_peers.add(ADDRESS)
        await known_peers.add(OTHER_ADDRESS)
        assert known_peers.has(ADDRESS)
    for _ in range(2):
        await known_peers.remove(ADDRESS)
        assert (known_peers.has(ADDRESS), known_peers.has(OTHER_ADDRESS)) == (False, True)


async def test_the_next_process_has_the_known_peers_of_the_last_process(tmp_path):
    await peers_file(tmp_path).add(ADDRESS)
    next_process = peers_file(tmp_path)
    assert next_process.has(ADDRESS)
    await next_process.remove(ADDRESS)
    assert not peers_file(tmp_path).has(ADDRESS)


async def test_processes_with_the_same_state_folder_do_not_delete_each_others_peers(tmp_path):
    both = [peers_file(tmp_path) for _ in range(2)]
    await asyncio.gather(both[0].add(ADDRESS), both[1].add(OTHER_ADDRESS))
    next_process = peers_file(tmp_path)
    assert next_process.has(ADDRESS)
    assert next_process.has(OTHER_ADDRESS)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"a": []}', b'["\xff"]', b"[" * 100_000, b"\x00" * 9]
)
async def test_a_damaged_file_counts_as_empty_and_is_logged(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    telemetry = QuietTelemetry()
    known_peers = peers_file(tmp_path, telemetry)
    assert (known_peers.has(ADDRESS), telemetry.events) == (False, ["known_peers_unreadable"])
    await known_peers.add(ADDRESS)
    assert peers_file(tmp_path).has(ADDRESS)


async def test_if_the_file_cannot_be_written_the_peer_is_known_and_a_problem_is_logged(tmp_path):
    (tmp_path / "state").write_text("no folder")
    telemetry = QuietTelemetry()
    known_peers = peers_file(tmp_path / "state", telemetry)
    await known_peers.add(ADDRESS)
    assert known_peers.has(ADDRESS)
    assert "known_peers_not_written" in telemetry.events


async def test_a_failed_write_is_retried_later(tmp_path):
    now_s, state = [0.0], tmp_path / "state"
    state.mkdir()
    telemetry = QuietTelemetry()
    known_peers = peers_file(state, telemetry, lambda: now_s[0])
    await known_peers.add(ADDRESS)
    state.rename(tmp_path / "away")
    await known_peers.add(OTHER_ADDRESS)
    await known_peers.remove(ADDRESS)
    assert telemetry.events == ["known_peers_not_written"] * 2
    (tmp_path / "away").rename(state)
    for now_s[0] in (RETRY_WRITE_S - 1, RETRY_WRITE_S):
        assert peers_file(state).has(ADDRESS)
        await known_peers.add(OTHER_ADDRESS)
    next_process = peers_file(state)
    assert (next_process.has(ADDRESS), next_process.has(OTHER_ADDRESS)) == (False, True)


async def test_a_folder_that_was_moved_away_is_not_created_again(tmp_path):
    """If there were a new folder with its name, the folder could not be moved back."""
    telemetry = QuietTelemetry()
    await peers_file(tmp_path / "state", telemetry).add(ADDRESS)
    assert telemetry.events == ["known_peers_not_written"]
    assert not (tmp_path / "state").exists()


async def test_waiting_for_a_suspended_process_that_has_the_lock_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("fractal_rm.adapters.peers.known.RETRY_S", 0)
    telemetry = QuietTelemetry()
    known_peers = peers_file(tmp_path, telemetry)
    with (tmp_path / f"{FILE}.lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        await asyncio.wait_for(known_peers.add(ADDRESS), 10)
    assert known_peers.has(ADDRESS)
    assert telemetry.events == ["known_peers_not_written"]


async def test_only_the_newest_peers_are_kept(tmp_path):
    known_peers = peers_file(tmp_path)
    (tmp_path / FILE).write_text("[" + ",".join(f'"{n}"' for n in range(MAX_ADDRESSES)) + "]")
    await known_peers.add(ADDRESS)
    next_process = peers_file(tmp_path)
    assert (next_process.has("0"), next_process.has("1"), next_process.has(ADDRESS)) == (
        False,
        True,
        True,
    )
