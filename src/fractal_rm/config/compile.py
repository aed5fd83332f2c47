"""The five files' texts into one Config, or every finding of all of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import msgspec

from fractal_rm.config.comm import read_comm
from fractal_rm.config.model import Component, Config, Endpoint, Node
from fractal_rm.config.mqtt import warn_of_triggers
from fractal_rm.config.section import FileContext, JsonFile, Section, each
from fractal_rm.config.targets import read_target
from fractal_rm.domain.address import as_compared, host_in
from fractal_rm.domain.call import BodyForm, Route
from fractal_rm.domain.findings import MOST_SHOWN, ConfigRejected, Finding, Level, more
from fractal_rm.domain.flow import Call, Flow
from fractal_rm.domain.handoff import AfterSilence
from fractal_rm.domain.placement import cannot_run
from fractal_rm.flowlang import compile_flows

FILES = ("comm.conf", "components.conf", "flows.conf", "load_balancer.conf", "nodes.conf")
T = TypeVar("T")


class Compiled(msgspec.Struct, frozen=True):
    """A configuration that may be taken, what to warn about, and the files that it refers to."""

    config: Config
    warnings: list[Finding]
    referenced: list[Path]


def compile_config(
    texts: Mapping[str, str | Finding], folder: Path, environ: Mapping[str, str]
) -> Compiled:
    """Compile the files. A file that could not be read is given as the finding about it.

    Raises ConfigRejected with every finding of all files, OSError where what it takes to read them
    cannot be loaded.
    """
    compiler = _Compiler(texts, folder, environ)
    config = compiler.compile()
    referenced = list(compiler.referenced)
    findings = _in_order(compiler.findings)
    if any(finding.level is Level.ERROR for finding in findings):
        raise ConfigRejected(findings, referenced)
    return Compiled(config, findings, referenced)


def _in_order(findings: Iterable[Finding]) -> list[Finding]:
    """By file and place; of one file so many as anybody reads, and how many more there are."""
    by_file: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda f: (f.file, f.place.line, f.place.column)):
        by_file.setdefault(finding.file, []).append(finding)
    shown: list[Finding] = []
    for file, found in by_file.items():
        if file == "flows.conf":  # has its bound, which keeps it from being slow
            shown += sorted(found, key=lambda finding: finding.code == "F136")
        else:
            hidden = [finding.level for finding in found[MOST_SHOWN:]]
            shown += found[:MOST_SHOWN] + more(file, "C212", hidden)
    return shown


class _Compiler:
    def __init__(
        self, texts: Mapping[str, str | Finding], folder: Path, environ: Mapping[str, str]
    ) -> None:
        self._texts = texts
        self._folder = folder
        self._context = FileContext(environ, folder.absolute().parent)
        self.findings = self._context.findings
        self.referenced = self._context.referenced

    def compile(self) -> Config:
        """Read everything, whatever is wrong with the rest."""
        listed = self._section("components.conf")
        components = self._named(listed, _component)
        listed_nodes = self._section("nodes.conf")
        nodes = self._nodes(listed_nodes)
        balancer = _balancer(self._section("load_balancer.conf"))
        comm_section = self._section("comm.conf")
        comm = read_comm(comm_section)
        state_path = comm.state_path or str(self._context.base / "state")
        self._check_log(comm_section, comm.log_path, state_path)
        flows = self._flows(components)
        if not any(finding.level is Level.ERROR for finding in self.findings):
            _warn_of_unused(listed, components, flows)
            warn_of_triggers(comm_section, comm.mqtt.topic, flows)
            if balancer is not None:
                _warn_of_unknown(listed_nodes, nodes, flows)
        return Config(
            digest=self._digest(),
            folder=str(self._folder.absolute()),
            state_path=state_path,
            components=MappingProxyType(components),
            flows=MappingProxyType(flows),
            nodes=MappingProxyType(nodes),
            balancer=balancer,
            mqtt=comm.mqtt,
            rest=comm.rest,
            bounds=comm.bounds,
            node_id=comm.node_id,
            log_path=comm.log_path,
        )

    def _check_log(self, comm: Section, log_path: str | None, state_path: str) -> None:
        """The log is not appended to what is read here, nor to what a node keeps."""
        if log_path is None or "\0" in log_path + state_path:
            return
        read = [*(self._folder / file for file in FILES), *self.referenced]
        real = Path(os.path.realpath(log_path))
        if str(real) in map(os.path.realpath, read):
            comm.bad("log", f"log.path is {log_path}, a file of the configuration")
        elif real.suffix != ".log" and str(real.parent) == os.path.realpath(state_path):
            comm.bad("log", f"log.path is {log_path}, where a node keeps its state",
                     "end its name with .log, or put it into another folder")  # fmt: skip

    def _section(self, file: str) -> Section:
        text = self._texts[file]
        if isinstance(text, Finding):
            self.findings.append(text)
            return JsonFile(file, "{}", FileContext.none()).section()
        return JsonFile(file, text, self._context).section()

    def _named(self, listed: Section, read: Callable[[str, Section, Section], T]) -> dict[str, T]:
        """Read a file of ``{name: {"id": …, "config": {…}}}``."""
        found: dict[str, T] = {}

        def one(name: str, entry: Section) -> None:
            config = entry.section("config")
            if config is None:
                entry.missing("config")
            else:
                found[name] = read(name, entry, config)
                config.finish()
            entry.identifier("id", name)
            entry.finish()

        each(listed, one)
        return found

    def _nodes(self, listed: Section) -> dict[str, Node]:
        nodes: dict[str, Node] = {}

        def read(name: str, entry: Section, config: Section) -> None:
            node = _node(name, entry, config)
            if node.id in nodes:
                entry.bad("id", f"node {node.id} is there already, as {nodes[node.id].name}",
                          code="C209")  # fmt: skip
            nodes.setdefault(node.id, node)

        self._named(listed, read)
        return nodes

    def _flows(self, components: Mapping[str, Component]) -> dict[str, Flow]:
        text = self._texts["flows.conf"]
        if isinstance(text, Finding):
            self.findings.append(text)
            return {}
        endpoints = {name: tuple(c.endpoints) for name, c in components.items()}
        flows, findings = compile_flows(text, endpoints)
        unread = {"C201", "C202", "C210"}
        if any(f.file == "components.conf" and f.code in unread for f in self.findings):
            # What follows from that says nothing new.
            findings = [finding for finding in findings if finding.code not in ("F104", "F105")]
        self.findings += findings
        return flows

    def _digest(self) -> str:
        content = hashlib.blake2b(digest_size=12)
        for file in FILES:
            content.update(str(self._texts[file]).encode() + b"\0")
        for said in self.referenced.values():
            content.update((said or "").encode() + b"\0")
        return content.hexdigest()


def _warn_of_unused(
    listed: Section, components: Mapping[str, Component], flows: Mapping[str, Flow]
) -> None:
    """Not where there are mistakes: a component may be one that was misspelt."""
    calls = (step for flow in flows.values() for step in flow.steps if isinstance(step, Call))
    used = {call.component for call in calls}
    for name in components:
        if flows and name not in used:
            listed.warn(name, "C211", f'no flow calls component "{name}"')


def _component(name: str, entry: Section, config: Section) -> Component:
    idempotent = config.flag("idempotent", default=True)
    target = read_target(config, timeout_s=30.0)
    endpoints: dict[str, Endpoint] = {}
    listed = config.section("endpoints")
    if listed is None:
        config.missing("endpoints")
    else:
        for key in listed.keys():  # noqa: SIM118 - not a dict
            path = listed.text(key) or ""
            get, post = (
                target.route(method, path, repeatable=idempotent, component=name, endpoint=key)
                for method in ("GET", "POST")
            )
            endpoints[key] = Endpoint(key, get, post)
    return Component(
        name=name,
        endpoints=MappingProxyType(endpoints),
        id=entry.identifier("id", name),
        idempotent=idempotent,
        body=BodyForm(config.one_of("body", ("json", "python-repr"), "json")),
        limit=_limit(config),
    )


def _node(name: str, entry: Section, config: Section) -> Node:
    target = read_target(config, timeout_s=5.0)
    endpoint = config.needed_text("endpoint")
    # A plain peer answers when the flow has ended, and nobody can tell whether it may be asked
    # again: it is given more time, and a connection of its own.
    patient = msgspec.structs.replace(target, timeout_s=config.seconds("timeout_s", 60.0))
    node_id = entry.identifier("id", name)
    offer = target.route("POST", endpoint, node=node_id)
    peer = config.one_of("peer", ("original", "fractal"), None)
    after_silence = config.one_of("after_silence", tuple(rule.value for rule in AfterSilence), None)
    if after_silence is not None and peer == "fractal":
        text = "after_silence has no effect: a node of this program is asked until it answers"
        config.warn("after_silence", "C229", text)
    # A gateway may tell nodes apart by it, and may hand it on.
    hosts = [value for header, value in target.headers if header.lower() == "host"]
    asked_for = filter(None, (host_in(value.encode("latin-1")) for value in hosts))
    return Node(
        id=node_id,
        name=name,
        address=" ".join([f"{target.origin}{offer.target}", *hosts]),
        names=frozenset({as_compared(name), as_compared(target.origin.host), *asked_for}),
        offer=offer,
        offer_once=patient.route("POST", endpoint, repeatable=False, node=node_id),
        peer=peer,
        limit=_limit(config),
        after_silence=AfterSilence(after_silence) if after_silence else None,
    )


def _warn_of_unknown(listed: Section, nodes: Mapping[str, Node], flows: Mapping[str, Flow]) -> None:
    """A node that is not said to be of this program may be an original, which cannot run them."""
    kept = [flow for flow in flows if cannot_run(None, flow, ours=False) is not None]
    if not kept:
        return
    which = f"flow {kept[0]}" + (f" and {len(kept) - 1} more" if len(kept) > 1 else "")
    for node in nodes.values():
        if node.peer is None:
            text = f"node {node.id} may be an original, so it is not given {which} before it"
            listed.warn(node.name, "C228", f"{text} has given a receipt")


def _limit(config: Section) -> int | None:
    return config.whole("limit", 0, 1, 100_000) or None


def _balancer(section: Section) -> Route | None:
    """An empty object means that there is no balancer: everything runs here."""
    if not section.keys():
        return None
    target = read_target(section, timeout_s=1.0)
    asked = target.route("GET", section.needed_text("endpoint"))
    section.finish()
    return asked
