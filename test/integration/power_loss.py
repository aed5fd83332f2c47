"""Computes the content of a disk after a power loss.

A program runs under strace, which writes a trace of the system calls. From the trace, the files are
rebuilt with only those writes that an fsync covers.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Union

_CALL = re.compile(r"^(\d+)\s+(\w+)\((.*)$")
_RESUMED = re.compile(r"^(\d+)\s+<\.\.\. (\w+) resumed>(.*)$")
_RESULT = re.compile(r"\)\s*= (-?\d+)")


def record(command: list[str], trace: Path) -> None:
    """Run a command under strace, which writes to ``trace``. Raises CalledProcessError."""
    subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-o", str(trace), "-xx", "-s", "1000000", "-e",
         "trace=openat,pwrite64,write,fsync,fdatasync,ftruncate,close,unlink,unlinkat,rename",
         *command],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


class Disk:
    """The files of a folder and its subfolders: as programs see them, and after a power loss.

    A power loss undoes the creation of a file with O_EXCL, a rename and a deletion, unless the
    folder of the file was synced afterwards. A new folder is never lost.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open_paths: dict[int, Path] = {}
        self._visible: dict[Path, bytearray] = {}
        self._durable: dict[Path, bytes] = {}
        self._content_at_fsync: dict[int, dict[Path, bytes]] = {}
        # Files in folders that were not synced afterwards: new files, and the old and new paths of
        # renamed files. The new path of a deleted file is None.
        self._new: set[Path] = set()
        self._moved: list[tuple[Path, Union[Path, None]]] = []

    def write_to(self, folder: Path) -> None:
        """Write the files to ``folder`` with their content after a power loss."""
        folder.mkdir()
        for original, content in self._durable.items():
            if original in self._new:
                continue
            path = folder / original.relative_to(self._folder)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)

    def begin(self, pid: int, call: str, arguments: str) -> None:
        """Apply the beginning of a system call.

        An fsync covers only data that was written before the fsync began. A descriptor is free as
        soon as its close has begun: another thread may get it before the close returns.
        """
        if call == "close":
            self._open_paths.pop(_only_number(arguments), None)
        elif call in ("fsync", "fdatasync"):
            path = self._open_paths.get(_only_number(arguments))
            self._content_at_fsync[pid] = (
                {path: bytes(self._visible[path])} if path in self._visible else {}
            )

    def end(self, pid: int, call: str, arguments: str, result: int) -> bytes | None:
        """Apply the end of a system call. Returns the bytes if it is a write to standard output."""
        if call == "write":
            descriptor, data, *_ = arguments.split(", ")
            if descriptor == "1":
                return _unquoted(data)
            path = self._open_paths.get(int(descriptor))
            if path is not None:  # `write` appends here, because the program never seeks
                self._visible[path] += _unquoted(data)[:result]
            return None
        if result >= 0:
            before_result, _, _ = arguments.rpartition(")")
            apply = getattr(self, f"_{call}")
            apply(pid, before_result.split(", "), result)
        return None

    def _openat(self, _pid: int, arguments: list[str], descriptor: int) -> None:
        path = self._path_at(arguments[0], arguments[1])
        if not path.is_relative_to(self._folder) or path.name.endswith(("-shm", ".lock")):
            return
        self._open_paths[descriptor] = path
        if path != self._folder and "O_DIRECTORY" not in arguments[2]:
            content = self._visible.setdefault(path, bytearray())
            if "O_TRUNC" in arguments[2]:
                content.clear()
            if "O_EXCL" in arguments[2]:
                self._new.add(path)

    def _close(self, _pid: int, _arguments: list[str], _: int) -> None:
        """Do nothing, because `begin` has already closed the descriptor."""

    def _pwrite64(self, _pid: int, arguments: list[str], byte_count: int) -> None:
        path = self._open_paths.get(int(arguments[0]))
        if path is not None:
            content, at = self._visible[path], int(arguments[3])
            data = _unquoted(arguments[1])[:byte_count]
            content.extend(bytes(max(0, at + len(data) - len(content))))
            content[at : at + len(data)] = data

    def _ftruncate(self, _pid: int, arguments: list[str], _: int) -> None:
        path = self._open_paths.get(int(arguments[0]))
        if path is not None:
            del self._visible[path][int(arguments[1]) :]

    def _unlink(self, _pid: int, arguments: list[str], _: int) -> None:
        self._delete(self._path(arguments[0]))

    def _unlinkat(self, _pid: int, arguments: list[str], _: int) -> None:
        self._delete(self._path_at(arguments[0], arguments[1]))

    def _delete(self, path: Path) -> None:
        if self._visible.pop(path, None) is not None:
            self._moved.append((path, None))

    def _rename(self, _pid: int, arguments: list[str], _: int) -> None:
        old_path, new_path = self._path(arguments[0]), self._path(arguments[1])
        if old_path in self._visible:
            self._visible[new_path] = self._visible.pop(old_path)
            self._moved.append((old_path, new_path))

    def _fsync(self, pid: int, arguments: list[str], _: int) -> None:
        self._durable.update(self._content_at_fsync.pop(pid, {}))
        folder = self._open_paths.get(int(arguments[0]))
        self._new = {path for path in self._new if path.parent != folder}
        moved, self._moved = self._moved, []
        for old_path, new_path in moved:
            if old_path.parent != folder:
                self._moved.append((old_path, new_path))
                continue
            content = self._durable.pop(old_path, None)
            if new_path is not None and content is not None:
                self._durable[new_path] = content

    _fdatasync = _fsync

    def _path_at(self, folder_descriptor: str, quoted_name: str) -> Path:
        """The path of a name in a folder. The descriptor may also be AT_FDCWD.

        ``quoted_name`` is a string as strace writes it.
        """
        path = self._path(quoted_name)
        if not folder_descriptor.isdigit():
            return path
        folder = self._open_paths.get(int(folder_descriptor))
        return path if folder is None else folder / path

    def _path(self, quoted_path: str) -> Path:
        return Path(_unquoted(quoted_path).decode())


def replay(trace: Path, disk: Disk):
    """Apply a trace to a disk. Yields the bytes of each write to standard output, when applied."""
    unfinished_calls: dict[int, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        resumed_line = _RESUMED.match(line)
        if resumed_line:
            pid, call = int(resumed_line[1]), resumed_line[2]
            arguments = unfinished_calls.pop(pid, "") + resumed_line[3]
        else:
            call_line = _CALL.match(line)
            if call_line is None:
                continue
            pid, call, arguments = int(call_line[1]), call_line[2], call_line[3]
            disk.begin(pid, call, arguments.replace("<unfinished ...>", ")"))
            if "<unfinished ...>" in arguments:
                unfinished_calls[pid] = arguments.replace("<unfinished ...>", "").rstrip()
                continue
        result = _RESULT.search(arguments)
        if result is None:
            continue
        output = disk.end(pid, call, arguments, int(result[1]))
        if output is not None:
            yield output


def _only_number(arguments: str) -> int:
    """The argument of a system call that has one argument, a number."""
    number, _, _ = arguments.partition(")")
    return int(number)


def _unquoted(quoted: str) -> bytes:
    """The bytes of a string as strace writes it: in quotes, with hexadecimal escapes."""
    inner = quoted.strip().strip('."')
    return bytes.fromhex(inner.replace("\\x", ""))
