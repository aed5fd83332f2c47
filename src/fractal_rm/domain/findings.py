"""Findings: the errors and warnings of a configuration, with their places and help.

All findings of all files are collected before they are shown. The code of a finding never changes.
F is for flows.conf, C for the JSON files, and T for flows.cases.toml, which also has C203 to C206.
docs/reference/findings.md explains each code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import Enum
from pathlib import Path

import msgspec

from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.late_import import late_import

CODES = {
    "C201": "a file is missing or cannot be read",
    "C202": "a file is not valid JSON",
    "C203": "a key is not known",
    "C204": "a key is missing",
    "C205": "a value has the wrong type",
    "C206": "a value is out of its range, or not one of those allowed",
    "C207": "a reference to the environment or to a file cannot be resolved",
    "C208": "an address that is not loopback needs authentication",
    "C209": "an id is used twice",
    "C210": "a key is given twice",
    "C211": "no flow calls a component",
    "C212": "there are more findings than are shown",
    "C213": "a trusted peer or proxy is neither an address nor a range",
    "C214": "a range of trusted peers or proxies is too wide",
    "C215": "rest.host is not the address of a machine",
    "C216": "trusted peers or proxies cannot reach this node",
    "C217": "no other machine is allowed yet",
    "C218": "a token is written in a configuration file",
    "C219": "the topic of triggers cannot be subscribed to",
    "C220": "an MQTT client id cannot be part of a topic",
    "C221": "an address of a broker cannot be read",
    "C222": "an ON topic matches the topic of triggers",
    "C223": "a certificate is not valid at this time",
    "C224": "a certificate, its key and its chain do not belong together",
    "C225": "the key of a certificate is encrypted",
    "C226": "a certificate expires within a fortnight",
    "C227": "a file of certificates cannot be used",
    "C229": "a key has no effect",
    "C230": "a token is sent without encryption",
    "C231": "a file is a FIFO, a device or a socket",
    "C232": "a file is too large",
    "C233": "rest.public_url is not the URL of a server",
    "F101": "a line is not an instruction",
    "F102": "two flows have the same number",
    "F103": "TO needs a component and an endpoint",
    "F104": "a component is not in components.conf",
    "F105": "a component does not have an endpoint",
    "F106": "a call comes before any TO",
    "F107": "a word is neither payload nor a result",
    "F108": "a result is used before its call",
    "F109": "GET and DELETE send no body",
    "F110": "a flow has no calls",
    "F111": "an instruction is outside of any flow",
    "F112": "a flow begins without a blank line before it",
    "F113": "flows.conf is not UTF-8",
    "F114": "a setting comes after the first instruction, or twice",
    "F115": "a setting cannot have this value",
    "F116": "a modifier is not indented under a call",
    "F117": "a call has a modifier or a header twice",
    "F118": "a modifier cannot have this value",
    "F119": "a word cannot be the name of a call",
    "F120": "two calls of a flow have the same name",
    "F121": "a path is not a JMESPath",
    "F122": "a condition or a template cannot be read",
    "F123": "two values cannot be compared in this way",
    "F124": "a header cannot be sent",
    "F125": "a keyword is used without another keyword that it needs",
    "F126": "an instruction cannot have this modifier",
    "F127": "an instruction cannot have this value",
    "F128": "RUN names a flow that does not exist",
    "F129": "flows run each other without end",
    "F130": "item is used without FOREACH",
    "F131": "a topic is not valid in MQTT",
    "F132": "a schedule cannot be read",
    "F133": "a result is used that may be missing",
    "F134": "a condition is never true, or an UNDO is never executed",
    "F135": "a deadline is shorter than the waits of its flow",
    "F136": "there are more findings than are shown",
    "F137": "a flow starts itself again without end",
    "F141": "base64 takes one reference",
    "F142": "base64 cannot be used here",
    "F145": "a schedule needs only one of two conditions for days",
    "F146": "a schedule needs both conditions for days",
    "T301": "flows.cases.toml is not TOML",
    "T302": "a case contains a name that the configuration does not have",
    "T303": "two cases have the same name",
}

# Codes for a file that may be readable later: a disk or a network share may return, or a file
# descriptor may become free.
UNREADABLE_FILE_CODES = frozenset({"C201", "C207"})

# For each code, the help of a finding that was made without help.
DEFAULT_HELP = {
    "C201": "all five files must be in the folder and readable; write {} in a JSON file without"
    " settings",
    "C202": "JSON has no comma after the last entry, no single quotes and no comments; save"
    " the file as UTF-8",
    "C204": "an address needs protocol, ip and port; a component also needs endpoints, a node and"
    " the balancer an endpoint, and a TLS key a cert",
}

MAX_SHOWN_FINDINGS = 1_000  # for one file; further findings are only counted
MAX_SHOWN_CHARACTERS = 120  # the maximum length of the line that a finding shows


class Level(str, Enum):
    """A configuration with an error cannot be used. A configuration with warnings can be used."""

    ERROR = "error"
    WARNING = "warning"


class Place(msgspec.Struct, frozen=True, gc=False):
    """A place in a file. Lines and columns count from 1. A column is a character.

    Line 0 means the whole file.
    """

    line: int = 0
    column: int = 0
    width: int = 1


class Finding(msgspec.Struct, frozen=True):
    """One error or warning. ``text_line`` is the line of the file at ``place``.

    If ``help`` is None, the finding gets the help for its code from `DEFAULT_HELP`, if any.
    """

    file: str
    place: Place
    code: str
    text: str
    help: str | None = None
    level: Level = Level.ERROR
    text_line: str = ""

    def __post_init__(self) -> None:
        if self.help is None:
            msgspec.structs.force_setattr(self, "help", DEFAULT_HELP.get(self.code))

    def headline(self) -> str:
        """One line with place, level, code and text: ``flows.conf:12:6: error[F104]: …``."""
        at = f"{self.file}:{self.place.line}:{self.place.column}" if self.place.line else self.file
        return f"{at}: {self.level.value}[{self.code}]: {self.text}"

    def render(self) -> str:
        """The headline, the line of the file, carets under the place, and the help."""
        lines = [self.headline()]
        if self.place.line and self.text_line.strip():
            part, index = _shown_part(self.text_line, self.place.column - 1)
            space = "".join(c if c == "\t" else " " for c in part[:index])
            carets = "^" * max(1, min(self.place.width, len(part) - index))
            lines += [f"    {part}", f"    {space}{carets}"]
        if self.help:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)


def hidden_findings(file: str, code: str, hidden: Sequence[Level]) -> list[Finding]:
    """Return one finding with the number of hidden findings, or [] if there are none.

    ``hidden`` has the level of each hidden finding. If one of them is an error, the result is an
    error.
    """
    if not hidden:
        return []
    level = Level.ERROR if Level.ERROR in hidden else Level.WARNING
    text = f"{len(hidden):,} more findings of {file} are not shown"
    return [
        Finding(file, Place(), code, text, "correct the findings above, then check again", level)
    ]


def _shown_part(line: str, index: int) -> tuple[str, int]:
    """The part of a line around ``index``, and the same index counted in this part."""
    if len(line) <= MAX_SHOWN_CHARACTERS:
        return line, index
    start = max(0, min(index - MAX_SHOWN_CHARACTERS // 2, len(line) - MAX_SHOWN_CHARACTERS))
    end = start + MAX_SHOWN_CHARACTERS
    prefix, suffix = "…" if start else "", "…" if end < len(line) else ""
    return prefix + line[start:end] + suffix, index - start + len(prefix)


class ConfigRejected(FractalError):
    """A configuration has errors. ``findings`` has all errors and warnings.

    ``referenced`` has the files to which the configuration refers. The error may be in one of them.
    """

    code = "config-rejected"

    @property
    def has_unreadable_file(self) -> bool:
        """Whether a file could not be read, so that a later attempt may succeed."""
        return any(finding.code in UNREADABLE_FILE_CODES for finding in self.findings)

    def __init__(self, findings: Iterable[Finding], referenced: Iterable[Path] = ()) -> None:
        self.findings = list(findings)
        self.referenced = list(referenced)
        errors = [finding for finding in self.findings if finding.level is Level.ERROR]
        super().__init__("\n".join(finding.render() for finding in errors))


def nearest(word: str, known_words: Collection[str]) -> str | None:
    """The known word that the author of ``word`` probably meant, or None."""
    longest = max(map(len, known_words), default=0)
    if len(word) > 3 * longest:  # too long to be similar; the comparison would be slow
        return None
    by_lower = {known.lower(): known for known in known_words}
    for lower, known in by_lower.items():
        if sorted(lower) == sorted(word.lower()):  # the same letters in another order
            return known
    matches = late_import("difflib").get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def did_you_mean(word: str, known_words: Collection[str]) -> str | None:
    """The help for an unknown word: the most similar known word.

    If no known word is similar, the help lists all known words; None if there are more than 8.
    """
    similar = nearest(word, known_words)
    if similar is not None:
        return f'did you mean "{similar}"?'
    if 0 < len(known_words) <= 8:
        return "there is " + ", ".join(f'"{known}"' for known in known_words)
    return None
