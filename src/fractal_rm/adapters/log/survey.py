"""Reads a damaged log: all valid bodies, and the gaps between them.

An invalid part is a gap if later data shows that the part had been on the disk. Otherwise the log
ends before the invalid part, as it does at a normal start.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from fractal_rm.adapters.log import frames
from fractal_rm.adapters.log.blobs import BlobFiles, find_lost_blob, read
from fractal_rm.adapters.log.choice import ChosenSegments, choose
from fractal_rm.adapters.log.disk import Disk
from fractal_rm.adapters.log.segments import (
    BEGIN,
    PlacedBody,
    Segment,
    has_mark,
    position,
    segment_number_at,
    start_place,
)


class Gap(msgspec.Struct, frozen=True):
    """A lost part of a log: bytes of a file, or a whole segment if ``file`` is None.

    ``frames_after`` is the number of valid frames between this gap and the next one.
    """

    segment: int
    file: str | None
    begin: int
    end: int
    frames_after: int = 0

    def __str__(self) -> str:
        name = f"segment {self.segment} of the log"
        if self.file is None:
            return f"{name} is missing; {self.frames_after} frames after it can be read"
        return (
            f"{name} (file {self.file}) is damaged from byte {self.begin} to byte {self.end};"
            f" {self.frames_after} frames after that can be read"
        )


class Survey(msgspec.Struct):
    """The content of a log from a position on.

    Each of ``parts`` is a list of bodies without a gap between them. ``gaps[n]`` is between
    ``parts[n]`` and ``parts[n + 1]``. ``problems`` are messages about other damage. ``newest`` is
    the highest segment number that was found.
    """

    parts: list[list[PlacedBody]]
    gaps: list[Gap]
    problems: list[str]
    newest: int


class _Piece(msgspec.Struct, frozen=True):
    """A piece of a log at the position ``at``: a frame, a ``gap``, or a lost header in ``file``.

    ``synced``: the piece shows that the log was synced up to this position.
    """

    at: int
    synced: int
    body: bytes = b""
    end: int = 0
    gap: Gap | None = None
    file: str | None = None


def survey(disk: Disk, since: int, blobs: BlobFiles, synced_until: int = 0) -> Survey:
    """Read everything from a position on, and change nothing. Raises JournalTooNew.

    ``synced_until``: see `Log.open`.
    """
    first = max(segment_number_at(since), 1)
    choice = choose(disk, first)
    pieces = list(_pieces(choice, first, since)) if since or choice.segments else []
    parts, gaps = [list[PlacedBody]()], list[Gap]()
    for piece in _pieces_before_end(pieces, blobs, synced_until):
        if piece.gap is not None:
            gaps.append(piece.gap)
            parts.append([])
        elif piece.file is not None:
            choice.problems.append(
                f"segment {segment_number_at(piece.at)} of the log (file {piece.file})"
                " has no valid header"
            )
        elif piece.body:
            parts[-1].append(PlacedBody(piece.body, piece.end))
    gaps = [
        msgspec.structs.replace(gap, frames_after=len(part))
        for gap, part in zip(gaps, parts[1:], strict=True)
    ]
    newest = max(choice.newest, segment_number_at(since))
    return Survey(parts, gaps, choice.problems, newest)


def _pieces_before_end(pieces: list[_Piece], blobs: BlobFiles, synced_until: int) -> list[_Piece]:
    """All pieces before the end of the log.

    The log ends at the first invalid piece that may never have been synced. A gap, a lost header
    and a frame with a lost blob are invalid pieces.
    """
    end_index = len(pieces)
    synced = 0
    for at in range(len(pieces) - 1, -1, -1):
        piece = pieces[at]
        synced = max(synced, piece.synced)
        if synced > piece.at:
            continue
        may_be_torn = piece.end > synced_until
        if piece.gap or piece.file or (may_be_torn and find_lost_blob(blobs, piece.body, read)):
            end_index = at
    return pieces[:end_index]


def _pieces(choice: ChosenSegments, first: int, since: int) -> Iterator[_Piece]:
    """Yield all pieces in order, up to the last segment that is known to have existed."""
    number, is_known = first, True
    for segment in choice.segments:
        for missing in range(number, segment.number):
            yield _missing(missing, is_known=is_known)
            is_known = False
        if segment.name in choice.recovered:
            yield _Piece(position(segment.number, 0), synced=0, file=segment.name)
        data = choice.data[segment.name]
        yield from _pieces_of(segment, data, start_place(segment, since))
        number, is_known = segment.number + 1, has_mark(data, segment)
        if is_known:
            yield _Piece(position(number, 0), synced=position(number, 1))
    if is_known:
        yield _missing(number, is_known=True)


def _missing(number: int, *, is_known: bool) -> _Piece:
    """The piece for a missing segment. ``is_known``: the segment certainly existed."""
    at = position(number, 0)
    synced = position(number, 1) if is_known else 0
    return _Piece(at, synced, gap=Gap(number, file=None, begin=0, end=0))


def _pieces_of(segment: Segment, data: bytes, place: int) -> Iterator[_Piece]:
    """Yield the frames of a segment, up to the empty last frame, and the gaps between them."""
    number, salt = segment.number, segment.salt
    while True:
        for frame in frames.scan(data, salt=salt, place=place):
            at, end = position(number, place), position(number, frame.end)
            yield _Piece(at, frame.synced, frame.body, end)
            place = frame.end
            if not frame.body:
                return
        later_frames = frames.all_valid_after(data, salt=salt, place=max(place, BEGIN))
        next_place, _ = next(later_frames, (None, None))
        end = max(segment.size, place) if next_place is None else next_place
        gap = Gap(number, segment.name, begin=place, end=end)
        yield _Piece(position(number, place), synced=0, gap=gap)
        if next_place is None:
            return
        place = next_place
