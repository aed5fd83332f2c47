"""The resolver files of this machine, read again when they change."""

from __future__ import annotations

from pathlib import Path

from fractal_rm.adapters.connect.resolver_files import (
    ResolverSettings,
    WatchedFile,
    addresses_in,
    c_library_sources,
    read_settings,
)

MAX_CACHED_NAMES = 1024  # more than any configuration has


class HostsFile:
    """Finds names in a hosts file, and reads the file again when it changes."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path)
        self._cache: dict[str, tuple[str, ...]] = {}

    def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a name; empty if the file does not have the name. Raises OSError."""
        if self._file.read_if_changed() is not None:
            self._cache.clear()
        addresses = self._cache.get(name)
        if addresses is None:
            if len(self._cache) >= MAX_CACHED_NAMES:
                self._cache.clear()
            addresses = self._cache[name] = addresses_in(self._file.read(), name)
        return addresses


class WatchedSettings:
    """The settings in resolv.conf and nsswitch.conf.

    ``resolver``: the settings in resolv.conf. ``c_library_sources``: the sources in nsswitch.conf
    that only the C library can ask.
    """

    def __init__(self, resolv_conf: Path, nsswitch: Path) -> None:
        self._resolv_conf = WatchedFile(resolv_conf)
        self._nsswitch = WatchedFile(nsswitch)
        self.resolver = ResolverSettings()
        self.c_library_sources: frozenset[str] = frozenset()
        # Whether a setting has changed since the last `reload` that could read both files.
        self._changed = False

    def reload(self) -> bool:
        """Read the files that have changed. Returns whether a setting has changed.

        A DHCP client may write a file again with the same settings; this is not a change.
        Raises OSError if a file cannot be read.
        """
        settings = self._resolv_conf.read_if_changed()
        if settings is not None:
            self._set(read_settings(settings), self.c_library_sources)
        sources = self._nsswitch.read_if_changed()
        if sources is not None:
            self._set(self.resolver, c_library_sources(sources))
        changed, self._changed = self._changed, False
        return changed

    def _set(self, resolver: ResolverSettings, sources: frozenset[str]) -> None:
        self._changed |= (resolver, sources) != (self.resolver, self.c_library_sources)
        self.resolver, self.c_library_sources = resolver, sources
