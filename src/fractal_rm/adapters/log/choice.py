"""Chooses the segments of a damaged log: one file for each segment, all from the same log.

Each header has the salt of the previous segment. If this salt does not match, the segments before
this place and the segments after it are from different logs. The smaller group is dropped.

If the header of a segment is lost, its salt is still in the header of the next segment. A file
whose frames are valid with this salt contains the segment. If there is no next segment, the salt is
computed from the frames (see `salts`).
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

MAX_BYTES = 64 * 1024 * 1024  # larger files without a valid header are not read


class ChosenSegments(msgspec.Struct):
    """The segments to read, in order. Each number occurs at most once; numbers may be missing.

    ``data`` is the content of each file, by name. ``problems`` are messages about damaged files.
    ``recovered`` are the files of segments whose header is lost. ``newest`` is the highest segment
    number that was found.
    """

    segments: list[Segment] = []
    data: dict[str, bytes] = {}
    problems: list[str] = []
    recovered: list[str] = []
    newest: int = 0


def choose(disk: Disk, first: int) -> ChosenSegments:
    """Read all files, and choose the segments from number ``first`` on. Raises JournalTooNew."""
    chosen = ChosenSegments()
    found, unidentified = _read_all(disk, chosen)
    chosen.newest = max((segment.number for segment in found), default=0)
    from_first = sorted(
        (segment for segment in found if segment.number >= first), key=lambda each: each.number
    )
    chosen.segments = _keep_one_log(_one_per_number(from_first, chosen), chosen)
    _find_by_next_segment(unidentified, first, chosen)
    _find_by_frames(unidentified, first, chosen)
    chosen.segments.sort(key=lambda segment: segment.number)
    chosen.problems += [
        f"file {name} of the log has no valid header"
        for name in unidentified
        if len(chosen.data[name]) >= BEGIN and has_lost_header(chosen.data[name])
    ]
    return chosen


def _read_all(disk: Disk, chosen: ChosenSegments) -> tuple[list[Segment], list[str]]:
    """Read all files. Returns the segments, and the names of files without a valid header."""
    found, unidentified = list[Segment](), list[str]()
    for name in _names(disk):
        try:
            size = disk.size(name)  # before the read, as reading a FIFO would block
            data = disk.read(name, BEGIN)
            segment = decode_header(disk, name, data)
            if segment is not None or size <= MAX_BYTES:  # a larger file is not a segment
                data = disk.read(name)
        except OSError as error:
            chosen.problems.append(f"file {name} of the log cannot be read ({error.strerror})")
            continue
        chosen.data[name] = data
        if segment is None:
            unidentified.append(name)
            continue
        if segment.size != size:
            chosen.problems.append(
                f"file {name} of the log has {size} bytes, but was created with {segment.size}"
            )
        found.append(segment)
    return found, unidentified


def _names(disk: Disk) -> list[str]:
    try:
        return disk.names()
    except FileNotFoundError:
        return []


def _one_per_number(segments: list[Segment], chosen: ChosenSegments) -> list[Segment]:
    """Choose one file for each segment number.

    Of several files, the file that matches more neighbour segments is chosen, or else the file with
    more valid frames.
    """
    known = {(each.number + 1, each.salt) for each in segments}
    expected = {(each.number - 1, each.previous_salt) for each in segments}

    def rank(segment: Segment) -> tuple[int, int]:
        matches = (segment.number, segment.previous_salt) in known
        matches += (segment.number, segment.salt) in expected
        valid = frames.all_valid_after(chosen.data[segment.name], salt=segment.salt, place=BEGIN)
        return matches, sum(1 for _ in valid)

    result = list[Segment]()
    for number, same in groupby(segments, key=lambda segment: segment.number):
        candidates = list(same)
        result.append(max(candidates, key=rank) if candidates[1:] else candidates[0])
        if candidates[1:]:
            names = " and ".join(segment.name for segment in candidates)
            chosen.problems.append(f"several files of the log contain segment {number}: {names}")
    return result


def _keep_one_log(segments: list[Segment], chosen: ChosenSegments) -> list[Segment]:
    """Drop segments of other logs.

    If two adjacent groups of segments do not match, the smaller group is dropped. Of two equal
    groups, the later group is dropped.
    """
    chains = list[list[Segment]]()
    for segment in segments:
        if chains and follows(segment, chains[-1][-1]):
            chains[-1].append(segment)
        else:
            chains.append([segment])
    while (pair := next(filter(_are_adjacent, pairwise(chains)), None)) is not None:
        earlier, later = pair
        wrong = earlier if len(earlier) < len(later) else later
        chains.remove(wrong)
        chosen.problems += [
            f"segment {segment.number} of the log (file {segment.name}) belongs to another log"
            for segment in wrong
        ]
    return [segment for chain in chains for segment in chain]


def _are_adjacent(pair: tuple[list[Segment], list[Segment]]) -> bool:
    """Whether no segment number is missing between two chains. Then they are of different logs."""
    earlier, later = pair
    return earlier[-1].number + 1 == later[0].number


def _find_by_next_segment(unidentified: list[str], first: int, chosen: ChosenSegments) -> None:
    """Add segments whose header is lost, by the salts in the headers of the next segments."""
    numbers = {segment.number for segment in chosen.segments}
    for following in list(chosen.segments):
        number, salt = following.number - 1, following.previous_salt
        if number in numbers or number < first:
            continue
        for name in unidentified:
            found = frames.all_valid_after(chosen.data[name], salt=salt, place=BEGIN)
            if next(found, None) is not None:
                _add(name, number, salt, unidentified, chosen)
                break


def _find_by_frames(unidentified: list[str], first: int, chosen: ChosenSegments) -> None:
    """Add segments whose salt can be computed. Their numbers are read from `Frame.synced`."""
    for name in unidentified.copy():
        data = chosen.data[name]
        salt = salt_in(data)
        if salt is None:
            continue
        number = number_of(frames.latest_synced(data, salt=salt, place=BEGIN))
        if number >= first and number not in {each.number for each in chosen.segments}:
            _add(name, number, salt, unidentified, chosen)


def _add(
    name: str, number: int, salt: int, unidentified: list[str], chosen: ChosenSegments
) -> None:
    unidentified.remove(name)
    chosen.segments.append(Segment(number, name, salt, 0, len(chosen.data[name])))
    chosen.newest = max(chosen.newest, number)
    chosen.recovered.append(name)
