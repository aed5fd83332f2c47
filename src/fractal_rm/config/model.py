"""The compiled configuration: immutable, complete and checked."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from fractal_rm.domain.address import Network
from fractal_rm.domain.admission import Limits
from fractal_rm.domain.call import BodyForm, Route, Tls
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.gate_rule import GateRule
from fractal_rm.domain.handoff.sender import AfterSilence
from fractal_rm.domain.log_level import INFO
from fractal_rm.domain.value_budget import MAX_VALUES


class Broker(msgspec.Struct, frozen=True):
    """The address of an MQTT broker."""

    host: str = "127.0.0.1"
    port: int = 1883

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Mqtt(msgspec.Struct, frozen=True):
    """The section ``mqtt`` of comm.conf. Times are in seconds.

    ``brokers`` are tried in turn. ``version`` is ``"5"`` or ``"3.1.1"``. If ``version`` is None,
    the node uses the version that the broker accepts.
    """

    topic: str = "component_msg"
    brokers: tuple[Broker, ...] = (Broker(),)
    version: str | None = None
    keepalive: int = 60
    username: str | None = None
    password: str | None = None
    tls: Tls | None = None
    client_id: str | None = None
    session_expiry_s: int = 3600
    receive_maximum: int = 1000
    retained: bool = False


class PublicUrl(msgspec.Struct, frozen=True):
    """The URL of a proxy in front of the node. ``host`` is normalized (`domain.address`)."""

    protocol: str
    host: str
    port: int

    @property
    def key(self) -> tuple[str, str, int]:
        """The URL in the form of `domain.address.read_origin`."""
        return self.protocol, self.host, self.port


class Rest(msgspec.Struct, frozen=True):
    """The section ``rest`` of comm.conf. Trusted peers may use only the path ``endpoint``.

    ``tls`` has the certificate of the node, and the authority (``ca``) of its peers' certificates.
    ``peer_rate`` is how many requests per second each trusted peer may send.
    """

    endpoint: str = "/startrm"
    host: str = "127.0.0.1"
    port: int = 5000
    trusted_peers: tuple[Network, ...] = ()
    tls: Tls | None = None
    peer_rate: int = 200
    public_url: PublicUrl | None = None
    trusted_proxies: tuple[Network, ...] = ()

    @property
    def protocol(self) -> str:
        """``https`` with ``tls``, otherwise ``http``."""
        return "http" if self.tls is None else "https"


class Traces(msgspec.Struct, frozen=True):
    """The section ``traces`` of comm.conf. ``endpoint`` is the URL of an OTLP/HTTP receiver.

    ``sample`` is the share of the traces that begin here and are exported: 0 to 1.
    """

    endpoint: str
    sample: float = 0.01


class Bounds(msgspec.Struct, frozen=True):
    """The bounds of a node: numbers of runs, sizes in bytes, and times in seconds."""

    max_inflight_runs: int = 1_000
    max_waiting_runs: int = 100_000
    max_inflight_bytes: int = 256 * 1024 * 1024
    max_trigger_bytes: int = 256 * 1024
    max_evaluated_values: int = MAX_VALUES
    max_attempts: int = 3
    dedup_window_s: int = 24 * 3600
    recovery_max_age_s: int = 3600
    drain_s: float = 30.0
    history_s: int = 7 * 24 * 3600
    history_bytes: int = 1024 * 1024 * 1024
    history_failed_s: int = 30 * 24 * 3600
    history_failed_bytes: int = 256 * 1024 * 1024

    def admission_limits(self, connections: int) -> Limits:
        """Return the limits for the admission of runs.

        At most ``connections`` runs are in flight, because each run may need a connection.
        """
        return Limits(
            self.max_waiting_runs,
            min(self.max_inflight_runs, connections),
            self.max_inflight_bytes,
            self.max_evaluated_values,
        )


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint of a component, with a route for each method."""

    name: str
    get: Route
    post: Route


class Component(msgspec.Struct, frozen=True):
    """One entry of components.conf.

    ``gate`` limits the calls to the component; None: nothing limits them. ``probe`` is the endpoint
    that says whether a call was executed.
    """

    name: str
    endpoints: Mapping[str, Endpoint]
    id: int | str | None = None
    idempotent: bool = True
    body: BodyForm = BodyForm.JSON
    gate: GateRule | None = None
    probe: Endpoint | None = None


class Node(msgspec.Struct, frozen=True):
    """One entry of nodes.conf. ``id`` is text: the ids 2 and "2" are the same.

    Two entries with the same ``address`` are the same peer. ``names`` are the host names by which
    other machines may address the node (`domain.address.normalized_host`). ``peer`` is
    ``"original"``, ``"fractal"``, or None if the key is absent. ``describe`` is the route of the
    question what the peer is. ``offer`` is the route of an offer to a node of this program.
    ``offer_once`` is the route to any other peer: it has a longer timeout, and its request is never
    repeated. ``gate`` limits the offers that are in flight.
    """

    id: str
    name: str
    address: str
    names: frozenset[str]
    describe: Route
    offer: Route
    offer_once: Route
    peer: str | None = None
    gate: GateRule | None = None
    after_silence: AfterSilence | None = None

    @property
    def url(self) -> str:
        """The address without the Host header that may be sent to it."""
        return self.address.partition(" ")[0]


class Config(msgspec.Struct, frozen=True):
    """The content of all five files, identified by ``digest``. The mappings are read-only.

    ``file_digests`` has a digest of the text of each file. ``editable``: pages may change files.
    """

    digest: str
    folder: str
    state_path: str
    components: Mapping[str, Component]
    flows: Mapping[str, Flow]
    nodes: Mapping[str, Node] = MappingProxyType({})
    balancer: Route | None = None
    mqtt: Mqtt = Mqtt()
    rest: Rest = Rest()
    bounds: Bounds = Bounds()
    node_id: str | None = None
    log_path: str | None = None
    log_format: str = "human"
    log_level: str = INFO
    metrics_port: int | None = None
    traces: Traces | None = None
    file_digests: Mapping[str, str] = MappingProxyType({})
    editable: bool = True

    @property
    def node_ids_by_name(self) -> dict[str, str]:
        """The id of each node by its names, which a certificate of the node may contain."""
        return {name: node.id for node in self.nodes.values() for name in node.names}

    @property
    def own_names(self) -> frozenset[str]:
        """The host names of this node, from its entry in nodes.conf."""
        entry = self.nodes.get(self.node_id or "")
        return entry.names if entry else frozenset()
