"""Compiles the texts of the five files into one Config, or into findings."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import msgspec

from fractal_rm.config.comm import read_comm
from fractal_rm.config.gates import read_gate, read_limit
from fractal_rm.config.model import Component, Config, Endpoint, Node
from fractal_rm.config.mqtt import warn_of_trigger_topics
from fractal_rm.config.section import FileContext, JsonFile, Section, read_each
from fractal_rm.config.targets import read_target
from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.address import host_of_authority, normalized_host
from fractal_rm.domain.call import BodyForm, Route
from fractal_rm.domain.findings import (
    MAX_SHOWN_FINDINGS,
    ConfigRejected,
    Finding,
    Level,
    did_you_mean,
    hidden_findings,
)
from fractal_rm.domain.flow import Call, Flow
from fractal_rm.domain.gate_rule import GateRule
from fractal_rm.domain.handoff.sender import AfterSilence
from fractal_rm.domain.list_names import list_names
from fractal_rm.flowlang import compile_flows

FILES = ("comm.conf", "components.conf", "flows.conf", "load_balancer.conf", "nodes.conf")
T = TypeVar("T")


def digests_of(texts: Mapping[str, str | Finding]) -> dict[str, str]:
    """A digest of the text of each file that could be read."""
    return {
        file: hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        for file, text in texts.items()
        if isinstance(text, str)
    }


class Compiled(msgspec.Struct, frozen=True):
    """A valid configuration, with its warnings and the paths of the files that it refers to.

    ``texts`` are the texts from which it was compiled, by file.
    """

    config: Config
    warnings: list[Finding]
    referenced: list[Path]
    texts: dict[str, str] = {}


def compile_config(
    texts: Mapping[str, str | Finding],
    folder: Path,
    environ: Mapping[str, str],
    *,
    comm_only: bool = False,
    now_ms: int | None = None,
) -> Compiled:
    """Compile the configuration. ``texts`` has, for each file, its text.

    For a file that could not be read, it has a finding instead of the text. Raises ConfigRejected
    with the findings of all files, and OSError if a library for schedules cannot be loaded.
    ``comm_only``: for commands that need only the folders in comm.conf, such as `token new`, which
    must work before the node has a token. ``now_ms`` is the time with which the dates of
    certificates are compared. Without it, certificates are not checked.
    """
    context = FileContext(environ, folder.absolute().parent, now_ms)
    compiler = _Compiler(texts, folder, context, comm_only)
    config = compiler.compile()
    referenced = list(compiler.referenced)
    findings = _in_order(compiler.findings)
    if any(finding.level is Level.ERROR for finding in findings):
        raise ConfigRejected(findings, referenced)
    valid = {file: text for file, text in texts.items() if isinstance(text, str)}
    return Compiled(config, findings, referenced, valid)


def _in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by file and place.

    Keep at most `MAX_SHOWN_FINDINGS` of each file. One more finding gives the number of the rest.
    """
    by_file: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda f: (f.file, f.place.line, f.place.column)):
        by_file.setdefault(finding.file, []).append(finding)
    in_order: list[Finding] = []
    for file, file_findings in by_file.items():
        if file == "flows.conf":
            # compile_flows has already limited these findings: F136 has the number of the rest.
            in_order += sorted(file_findings, key=lambda finding: finding.code == "F136")
        else:
            hidden = [finding.level for finding in file_findings[MAX_SHOWN_FINDINGS:]]
            in_order += file_findings[:MAX_SHOWN_FINDINGS] + hidden_findings(file, "C212", hidden)
    return in_order


class _Compiler:
    def __init__(
        self,
        texts: Mapping[str, str | Finding],
        folder: Path,
        context: FileContext,
        comm_only: bool,
    ) -> None:
        self._texts = texts
        self._comm_only = comm_only
        self._folder = folder
        self._context = context
        self.findings = self._context.findings
        self.referenced = self._context.referenced

    def compile(self) -> Config:
        """Read all files, even if some of them have errors."""
        components_file = self._file("components.conf")
        components = self._entries(components_file, _component)
        nodes_file = self._file("nodes.conf")
        nodes = self._nodes(nodes_file)
        balancer = _balancer(self._file("load_balancer.conf"))
        comm_file = self._file("comm.conf")
        comm = read_comm(comm_file, self._has_tokens)
        state_path = self._state_path(comm.state_path)
        self._check_log(comm_file, comm.telemetry.log_path, state_path)
        flows = self._flows(components)
        if not any(finding.level is Level.ERROR for finding in self.findings):
            _warn_of_unused(components_file, components, flows)
            warn_of_trigger_topics(comm_file, comm.mqtt.topic, flows)
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
            log_path=comm.telemetry.log_path,
            log_format=comm.telemetry.log_format,
            log_level=comm.telemetry.log_level,
            metrics_port=comm.telemetry.metrics_port,
            traces=comm.telemetry.traces,
            file_digests=MappingProxyType(digests_of(self._texts)),
            editable=comm.editable,
        )

    def _state_path(self, configured: str | None) -> str:
        return configured or str(self._context.base / "state")

    def _has_tokens(self, state_path: str | None) -> bool:
        """Whether clients may have a token. True also if nothing will be served."""
        return self._comm_only or TokenFile(Path(self._state_path(state_path))).has_tokens()

    def _check_log(self, comm: Section, log_path: str | None, state_path: str) -> None:
        """Add a finding if the log file is, or may be, a file of the configuration or the state."""
        if log_path is None or "\0" in log_path + state_path:
            return
        config_paths = [*(self._folder / file for file in FILES), *self.referenced]
        real_path = Path(os.path.realpath(log_path))
        if str(real_path) in map(os.path.realpath, config_paths):
            comm.bad("log", f"log.path {log_path} is a file of the configuration")
        elif real_path.suffix != ".log" and str(real_path.parent) == os.path.realpath(state_path):
            comm.bad("log", f"log.path {log_path} is in the state folder",
                     "write a name that ends with .log, or use another folder")  # fmt: skip

    def _file(self, file: str) -> Section:
        text = self._texts[file]
        if isinstance(text, Finding):
            self.findings.append(text)
            return JsonFile(file, "{}", FileContext.without_findings()).section()
        return JsonFile(file, text, self._context).section()

    def _entries(self, file: Section, read: Callable[[str, Section, Section], T]) -> dict[str, T]:
        """Read a file of the form ``{name: {"id": …, "config": {…}}}``. Return values by name."""
        entries: dict[str, T] = {}

        def read_entry(name: str, entry: Section) -> None:
            config = entry.section("config")
            if config is None:
                entry.missing("config")
            else:
                entries[name] = read(name, entry, config)
                config.finish()
            entry.identifier("id", name)
            entry.finish()

        read_each(file, read_entry)
        return entries

    def _nodes(self, file: Section) -> dict[str, Node]:
        nodes: dict[str, Node] = {}

        def read(name: str, entry: Section, config: Section) -> None:
            node = _node(name, entry, config)
            if node.id in nodes:
                other = nodes[node.id].name
                entry.bad("id", f"the id {node.id} is used twice: {other} also has this id",
                          "give each node a different id", code="C209")  # fmt: skip
            nodes.setdefault(node.id, node)

        self._entries(file, read)
        return nodes

    def _flows(self, components: Mapping[str, Component]) -> dict[str, Flow]:
        text = self._texts["flows.conf"]
        if isinstance(text, Finding):
            self.findings.append(text)
            return {}
        endpoints = {name: tuple(c.endpoints) for name, c in components.items()}
        flows, findings = compile_flows(text, endpoints)
        unreadable = {"C201", "C202", "C210"}
        if any(f.file == "components.conf" and f.code in unreadable for f in self.findings):
            # components.conf could not be read, so findings about unknown components may be wrong.
            findings = [finding for finding in findings if finding.code not in ("F104", "F105")]
        self.findings += findings
        return flows

    def _digest(self) -> str:
        content = hashlib.blake2b(digest_size=12)
        for file in FILES:
            content.update(str(self._texts[file]).encode() + b"\0")
        for text in self.referenced.values():
            content.update((text or "").encode() + b"\0")
        return content.hexdigest()


def _warn_of_unused(
    file: Section, components: Mapping[str, Component], flows: Mapping[str, Flow]
) -> None:
    """Warn of components that no flow calls. Call this only if there are no errors.

    Otherwise a misspelt name in a flow would cause two findings: the error in the flow, and a
    warning of an unused component.
    """
    calls = (step for flow in flows.values() for step in flow.steps if isinstance(step, Call))
    used = {call.component for call in calls}
    for name in components:
        if flows and name not in used:
            file.warn(name, "C211", f'no flow calls component "{name}"')


def _component(name: str, entry: Section, config: Section) -> Component:
    idempotent = config.flag("idempotent", default=True)
    target = read_target(config, timeout_s=30.0)
    endpoints: dict[str, Endpoint] = {}
    section = config.section("endpoints")
    if section is None:
        config.missing("endpoints")
    else:
        for key in section.keys():  # noqa: SIM118 - not a dict
            path = section.text(key) or ""
            get, post = (
                target.route(method, path, repeatable=idempotent, component=name, endpoint=key)
                for method in ("GET", "POST")
            )
            endpoints[key] = Endpoint(key, get, post)
    gate = read_gate(config)
    has_circuit = gate is not None and gate.circuit is not None
    return Component(
        name=name,
        endpoints=MappingProxyType(endpoints),
        id=entry.identifier("id", name),
        idempotent=idempotent,
        body=BodyForm(config.one_of("body", ("json", "python-repr"), "json")),
        gate=gate,
        probe=_probe(config, endpoints, has_effect=not idempotent or has_circuit),
    )


def _probe(
    config: Section, endpoints: Mapping[str, Endpoint], *, has_effect: bool
) -> Endpoint | None:
    """Read the key ``probe``: the name of an endpoint."""
    name = config.text("probe")
    if name is None:
        return None
    if name not in endpoints:
        hint = did_you_mean(name, endpoints) or f"endpoints has {list_names(list(endpoints))}"
        config.bad("probe", f'probe is "{name}", which is not in endpoints', hint)
        return None
    if not has_effect:
        text = "probe has no effect: calls to an idempotent component are repeated"
        config.warn("probe", "C229", text)
    return endpoints[name]


def _node(name: str, entry: Section, config: Section) -> Node:
    target = read_target(config, timeout_s=5.0)
    endpoint = config.required_text("endpoint")
    # An original answers only when the flow has ended, and the request must not be repeated. So
    # `offer_once` has a longer timeout and uses a new connection.
    target_once = msgspec.structs.replace(target, timeout_s=config.seconds("timeout_s", 60.0))
    node_id = entry.identifier("id", name)
    offer = target.route("POST", endpoint, node=node_id)
    peer = config.one_of("peer", ("original", "fractal"), None)
    after_silence = config.one_of("after_silence", tuple(rule.value for rule in AfterSilence), None)
    if after_silence is not None and peer == "fractal":
        text = "after_silence has no effect: a node of this program is asked until it answers"
        config.warn("after_silence", "C229", text)
    # A gateway may choose the node by the Host header, and may forward the header to the node.
    limit = read_limit(config)
    hosts = [value for header, value in target.headers if header.lower() == "host"]
    host_names = filter(None, (host_of_authority(value.encode("latin-1")) for value in hosts))
    return Node(
        id=node_id,
        name=name,
        address=" ".join([f"{target.origin}{offer.target}", *hosts]),
        names=frozenset({normalized_host(name), normalized_host(target.origin.host), *host_names}),
        describe=target.route("GET", endpoint, node=node_id),
        offer=offer,
        offer_once=target_once.route("POST", endpoint, repeatable=False, node=node_id),
        peer=peer,
        gate=GateRule(limit) if limit else None,
        after_silence=AfterSilence(after_silence) if after_silence else None,
    )


def _balancer(section: Section) -> Route | None:
    """Return the route to the balancer. Returns None if the object is empty: no balancer."""
    if not section.keys():
        return None
    target = read_target(section, timeout_s=1.0)
    balancer = target.route("GET", section.required_text("endpoint"))
    section.finish()
    return balancer
