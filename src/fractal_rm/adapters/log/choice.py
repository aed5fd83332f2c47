"""Chooses the segments of a damaged log: one file for each segment, all from the same log.

Each header has the salt of the previous segment. If this salt differs from the salt of the previous
segment that was found, the segments up to that one and the segments after it are from different
logs. The smaller group is dropped.

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
    segment_number_at,
)

MAX_BYTES = 64 * 1024 * 1024  # a larger file is read only if it has a valid header


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
    choice = ChosenSegments()
    segments, unidentified = _read_all(disk, choice)
    choice.newest = max((segment.number for segment in segments), default=0)
    from_first = sorted(
        (segment for segment in segments if segment.number >= first), key=lambda each: each.number
    )
    choice.segments = _keep_one_log(_one_per_number(from_first, choice), choice)
    _find_by_next_segment(unidentified, first, choice)
    _find_by_frames(unidentified, first, choice)
    choice.segments.sort(key=lambda segment: segment.number)
    choice.problems += [
        f"file {name} of the log has no valid header"
        for name in unidentified
        if len(choice.data[name]) >= BEGIN and has_lost_header(choice.data[name])
    ]
    return choice


def _read_all(disk: Disk, choice: ChosenSegments) -> tuple[list[Segment], list[str]]:
    """Read all files. Returns the segments, and the names of files without a valid header."""
    segments, unidentified = list[Segment](), list[str]()
    for name in _names(disk):
        try:
            size = disk.size(name)  # fails for a FIFO, from which the read would block
            data = disk.read(name, BEGIN)
            segment = decode_header(disk, name, data)
            if segment is not None or size <= MAX_BYTES:  # otherwise the file is not a segment
                data = disk.read(name)
        except OSError as error:
            choice.problems.append(f"file {name} of the log cannot be read ({error.strerror})")
            continue
        choice.data[name] = data
        if segment is None:
            unidentified.append(name)
            continue
        if segment.size != size:
            choice.problems.append(
                f"file {name} of the log has {size} bytes, but was created with {segment.size}"
            )
        segments.append(segment)
    return segments, unidentified


def _names(disk: Disk) -> list[str]:
    try:
        return disk.names()
    except FileNotFoundError:
        return []


def _one_per_number(segments: list[Segment], choice: ChosenSegments) -> list[Segment]:
    """Choose one file for each segment number.

    Of several files with the same number, the file that matches more neighbour segments is chosen.
    If they match the same number of segments, the file with more valid frames is chosen.
    """
    salts_of_previous = {(each.number + 1, each.salt) for each in segments}
    salts_in_next = {(each.number - 1, each.previous_salt) for each in segments}

    def rank(segment: Segment) -> tuple[int, int]:
        fits_previous = (segment.number, segment.previous_salt) in salts_of_previous
        fits_next = (segment.number, segment.salt) in salts_in_next
        data = choice.data[segment.name]
        valid_frames = frames.all_valid_after(data, salt=segment.salt, place=BEGIN)
        return fits_previous + fits_next, sum(1 for _ in valid_frames)

    result = list[Segment]()
    for number, same_number in groupby(segments, key=lambda segment: segment.number):
        candidates = list(same_number)
        if len(candidates) == 1:
            result += candidates
        else:
            result.append(max(candidates, key=rank))
            names = " and ".join(segment.name for segment in candidates)
            choice.problems.append(f"several files of the log contain segment {number}: {names}")
    return result


def _keep_one_log(segments: list[Segment], choice: ChosenSegments) -> list[Segment]:
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
        choice.problems += [
            f"segment {segment.number} of the log (file {segment.name}) belongs to another log"
            for segment in wrong
        ]
    return [segment for chain in chains for segment in chain]


def _are_adjacent(pair: tuple[list[Segment], list[Segment]]) -> bool:
    """Whether the later chain begins with the segment number after the end of the earlier chain.

    Such chains are of different logs. Segments of one log would be in one chain.
    """
    earlier, later = pair
    return earlier[-1].number + 1 == later[0].number


def _find_by_next_segment(unidentified: list[str], first: int, choice: ChosenSegments) -> None:
    """Add segments whose header is lost, by the salts in the headers of the next segments."""
    numbers = {segment.number for segment in choice.segments}
    for following in list(choice.segments):
        number, salt = following.number - 1, following.previous_salt
        if number in numbers or number < first:
            continue
        for name in unidentified:
            valid_frames = frames.all_valid_after(choice.data[name], salt=salt, place=BEGIN)
            if next(valid_frames, None) is not None:
                _add(name, number, salt, unidentified, choice)
                break


def _find_by_frames(unidentified: list[str], first: int, choice: ChosenSegments) -> None:
    """Add segments whose salt can be computed. Their numbers are read from `Frame.synced`."""
    for name in unidentified.copy():
        data = choice.data[name]
        salt = salt_in(data)
        if salt is None:
            continue
        number = segment_number_at(frames.latest_synced(data, salt=salt, place=BEGIN))
        if number >= first and number not in {each.number for each in choice.segments}:
            _add(name, number, salt, unidentified, choice)


def _add(
    name: str, number: int, salt: int, unidentified: list[str], choice: ChosenSegments
) -> None:
    unidentified.remove(name)
    choice.segments.append(Segment(number, name, salt, 0, len(choice.data[name])))
    choice.newest = max(choice.newest, number)
    choice.recovered.append(name)
