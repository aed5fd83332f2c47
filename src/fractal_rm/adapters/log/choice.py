"""Which file of a damaged log is which segment, and which segments are of one log.

Headers tell: each has the salt of the segment before it. Where two that should follow each other do
not, the smaller part is of another log. The same salt finds a segment again whose own header is
lost: its frames hold under it. Where none follows, its frames themselves tell (see `salts`).
"""

from __future__ import annotations

from itertools import groupby, pairwise

import msgspec

from fractal_rm.adapters.log import frames
from fractal_rm.adapters.log.disk import Disk
from fractal_rm.adapters.log.salts import salt_in
from fractal_rm.adapters.log.segments import (
    BEGIN,
    Segment,
    decode_header,
    follows,
    has_lost_header,
    number_of,
)

MOST_BYTES = 64 * 1024 * 1024  # of a file without a header that is looked through


class Chosen(msgspec.Struct):
    """What is to be read. ``segments`` are in order, each number once; some may be missing.

    ``data`` is what each file holds, by name. ``problems`` say, as sentences, what is wrong with
    files. ``found_again`` are the files of segments without a header. No segment that was seen has
    a higher number than ``newest``.
    """

    segments: list[Segment] = []
    data: dict[str, bytes] = {}
    problems: list[str] = []
    found_again: list[str] = []
    newest: int = 0


def choose(disk: Disk, first: int) -> Chosen:
    """Look at every file; segments before ``first`` are not wanted. Raises JournalTooNew."""
    chosen = Chosen()
    found, nameless = _read_all(disk, chosen)
    chosen.newest = max((segment.number for segment in found), default=0)
    wanted = sorted(
        (segment for segment in found if segment.number >= first), key=lambda each: each.number
    )
    chosen.segments = _of_one_log(_each_once(wanted, chosen), chosen)
    _find_again(nameless, first, chosen)
    _find_by_frames(nameless, first, chosen)
    chosen.segments.sort(key=lambda segment: segment.number)
    chosen.problems += [
        f"file {name} of the log has no header that holds"
        for name in nameless
        if len(chosen.data[name]) >= BEGIN and has_lost_header(chosen.data[name])
    ]
    return chosen


def _read_all(disk: Disk, chosen: Chosen) -> tuple[list[Segment], list[str]]:
    """The segments, and the names of files in which no header holds."""
    found, nameless = list[Segment](), list[str]()
    for name in _names(disk):
        try:
            size = disk.size(name)  # first: to read a FIFO takes for ever
            data = disk.read(name, BEGIN)
            segment = decode_header(disk, name, data)
            if segment is not None or size <= MOST_BYTES:  # else it is something else
                data = disk.read(name)
        except OSError as error:
            chosen.problems.append(f"file {name} of the log cannot be read ({error.strerror})")
            continue
        chosen.data[name] = data
        if segment is None:
            nameless.append(name)
            continue
        if segment.size != size:
            chosen.problems.append(
                f"file {name} of the log has {size} bytes and was made with {segment.size}"
            )
        found.append(segment)
    return found, nameless


def _names(disk: Disk) -> list[str]:
    try:
        return disk.names()
    except FileNotFoundError:
        return []


def _each_once(segments: list[Segment], chosen: Chosen) -> list[Segment]:
    """Of two that say they are the same, the one that others know, and that holds more."""
    known = {(each.number + 1, each.salt) for each in segments}
    named = {(each.number - 1, each.before) for each in segments}

    def worth(segment: Segment) -> tuple[int, int]:
        linked = (segment.number, segment.before) in known
        linked += (segment.number, segment.salt) in named
        held = frames.all_behind(chosen.data[segment.name], salt=segment.salt, place=BEGIN)
        return linked, sum(1 for _ in held)

    once = list[Segment]()
    for number, same in groupby(segments, key=lambda segment: segment.number):
        some = list(same)
        once.append(max(some, key=worth) if some[1:] else some[0])
        if some[1:]:
            names = " and ".join(segment.name for segment in some)
            chosen.problems.append(f"files {names} of the log all are segment {number}")
    return once


def _of_one_log(segments: list[Segment], chosen: Chosen) -> list[Segment]:
    """Without those that contradict a larger part, or one as large that stands before them."""
    chains = list[list[Segment]]()
    for segment in segments:
        if chains and follows(segment, chains[-1][-1]):
            chains[-1].append(segment)
        else:
            chains.append([segment])
    while (pair := next(filter(_contradict, pairwise(chains)), None)) is not None:
        one, other = pair
        wrong = one if len(one) < len(other) else other
        chains.remove(wrong)
        chosen.problems += [
            f"segment {segment.number} of the log (file {segment.name}) is of another log"
            for segment in wrong
        ]
    return [segment for chain in chains for segment in chain]


def _contradict(pair: tuple[list[Segment], list[Segment]]) -> bool:
    one, other = pair
    return one[-1].number + 1 == other[0].number


def _find_again(nameless: list[str], first: int, chosen: Chosen) -> None:
    """Those whose header is lost, and that the next one knows."""
    numbers = {segment.number for segment in chosen.segments}
    for following in list(chosen.segments):
        number, salt = following.number - 1, following.before
        if number in numbers or number < first:
            continue
        for name in nameless:
            found = frames.all_behind(chosen.data[name], salt=salt, place=BEGIN)
            if next(found, None) is not None:
                _take_in(name, number, salt, nameless, chosen)
                break


def _find_by_frames(nameless: list[str], first: int, chosen: Chosen) -> None:
    """Those whose frames say where they were synced: a part of the segment that they stand in."""
    for name in nameless.copy():
        data = chosen.data[name]
        salt = salt_in(data)
        if salt is None:
            continue
        number = number_of(frames.latest_synced(data, salt=salt, place=BEGIN))
        if number >= first and number not in {each.number for each in chosen.segments}:
            _take_in(name, number, salt, nameless, chosen)


def _take_in(name: str, number: int, salt: int, nameless: list[str], chosen: Chosen) -> None:
    nameless.remove(name)
    chosen.segments.append(Segment(number, name, salt, 0, len(chosen.data[name])))
    chosen.newest = max(chosen.newest, number)
    chosen.found_again.append(name)
