"""The line of an invitation, and until when an invitation can be used."""

from __future__ import annotations

import msgspec
import pytest

from fractal_rm.domain.moment import Moment
from fractal_rm.domain.pairing import (
    VALID_MS,
    CannotPair,
    Invitation,
    NodeAddress,
    check_clocks,
    line_text,
    new_invitation,
    read_address_option,
    read_line,
    secret_text,
)

ADDRESS = NodeAddress("1", "10.1.0.1", 5000, "/startrm")
INVITATION = Invitation(ADDRESS, bytes(32), bytes(range(16)))
LINE = line_text(INVITATION)
NOW = Moment("this boot", 1_000_000, 1_700_000_000_000)
STORED = new_invitation(INVITATION.secret, NOW)


def test_a_line_is_one_word_that_no_shell_changes():
    assert LINE.replace("_", "").replace("-", "").isalnum()
    assert read_line(LINE) == INVITATION


def test_spaces_and_line_ends_from_a_terminal_are_ignored():
    assert read_line(f"  {LINE[:40]}\n{LINE[40:]} \n") == INVITATION


@pytest.mark.parametrize("length", range(10, len(LINE), 7))
def test_a_truncated_line_is_refused(length):
    with pytest.raises(CannotPair, match="copy the whole line again"):
        read_line(LINE[:length])


@pytest.mark.parametrize("place", range(10, len(LINE)))
def test_a_line_with_a_wrong_character_is_refused(place):
    wrong = "A" if LINE[place] != "A" else "Q"
    with pytest.raises(CannotPair, match="a character is wrong"):
        read_line(LINE[:place] + wrong + LINE[place + 1 :])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a line of"),
        ("hello", "is not a line of"),
        ("frm_pair9_abc", "another version"),
        ("frm_pair1_ä", "a character is wrong"),
    ],
)
def test_other_texts_are_refused_with_the_reason(text, reason):
    with pytest.raises(CannotPair, match=reason):
        read_line(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"node": "../1"},
        {"node": ""},
        {"node": "n" * 52},
        {"host": "example.org"},
        {"host": "0.0.0.0"},
        {"host": "fe80::1"},
        {"host": "fe80::1%eth0"},
        {"port": 0},
        {"endpoint": "/${file:/etc/passwd}"},
        {"endpoint": "startrm"},
    ],
)
def test_an_address_that_must_not_be_written_to_a_file_is_refused(changes):
    address = msgspec.structs.replace(ADDRESS, **changes)
    with pytest.raises(CannotPair):
        read_line(line_text(msgspec.structs.replace(INVITATION, address=address)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.0.1", ("10.1.0.1", None)),
        ("10.1.0.1:80", ("10.1.0.1", 80)),
        ("fd77::1", ("fd77::1", None)),
        ("[fd77::1]", ("fd77::1", None)),
        ("[FD77:0::1]:5001", ("fd77::1", 5001)),
    ],
)
def test_an_address_may_have_a_port(text, expected):
    assert read_address_option(text) == expected


@pytest.mark.parametrize("text", ["node-1", "10.1.0.1:0", "10.1.0.1:x", "::", "224.0.0.1", ""])
def test_a_wrong_address_is_refused(text):
    with pytest.raises(CannotPair):
        read_address_option(text)


def test_an_invitation_is_only_for_its_secret():
    assert STORED.is_for(secret_text(INVITATION.secret))
    assert not STORED.is_for(secret_text(bytes(16)))


def test_an_invitation_is_valid_for_ten_minutes():
    assert STORED.why_refused(NOW) is None
    assert STORED.why_refused(NOW.after(VALID_MS - 1)) is None
    assert "has expired" in (STORED.why_refused(NOW.after(VALID_MS)) or "")


def test_setting_the_wall_clock_changes_nothing():
    for wall_ms in (0, NOW.wall_ms * 2):
        assert STORED.why_refused(msgspec.structs.replace(NOW, wall_ms=wall_ms)) is None
        late = msgspec.structs.replace(NOW.after(VALID_MS), wall_ms=wall_ms)
        assert STORED.why_refused(late) is not None


def test_after_a_reboot_an_invitation_has_expired():
    assert STORED.why_refused(msgspec.structs.replace(NOW, boot="another boot")) is not None
    earlier = msgspec.structs.replace(NOW, boot_ms=NOW.boot_ms - 1)
    assert STORED.why_refused(earlier) is not None


def test_a_used_or_failed_invitation_is_refused():
    used = msgspec.structs.replace(STORED, used_by="2")
    assert used.why_refused(NOW) == "this invitation was used already, by node 2"
    failed = msgspec.structs.replace(STORED, has_failed=True)
    assert "is void" in (failed.why_refused(NOW) or "")


def test_clocks_that_differ_by_a_day_are_refused():
    check_clocks(NOW.wall_ms, NOW.wall_ms + 86_399_999)
    with pytest.raises(CannotPair, match="clocks of the two machines differ by 1 days"):
        check_clocks(NOW.wall_ms, NOW.wall_ms - 86_400_000)
