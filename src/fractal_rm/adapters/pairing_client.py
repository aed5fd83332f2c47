"""Connects to a node that has invited this node, and sends the request to be joined.

The certificate of the node is checked before the secret is sent. These functions block.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
import ssl
from contextlib import suppress

import msgspec

from fractal_rm.adapters.connect.numeric_address import describe_socket_error, socket_address
from fractal_rm.adapters.tls import describe_tls_error
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.pairing import (
    NOT_KNOWN,
    PAIR_PATH,
    Invitation,
    NodeAddress,
    PairAnswer,
    PairRequest,
    bracketed,
    secret_text,
)
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as
from fractal_rm.domain.tokens import is_token

CONNECT_S = 10
ANSWER_S = 60
_MAX_ANSWER_BYTES = 64 * 1024
_UNUSED_PORT = 9  # nothing is sent to it


class CannotJoin(FractalError):
    """The other node cannot be reached, or has refused. Nothing was changed on it."""

    code = "cannot-join"


class MaybeJoined(FractalError):
    """The other node may have added this node, but no answer has shown it."""

    code = "maybe-joined"


class _Problem(msgspec.Struct):
    title: str = ""
    detail: str = ""


def served_certificate(host: str, port: int) -> bytes:
    """The certificate (DER) that a server shows. It is not checked. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the caller compares the certificate
    with (
        socket.create_connection((host, port), CONNECT_S) as plain,
        context.wrap_socket(plain) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


def source_address(host: str) -> str | None:
    """The address of this machine from which it reaches ``host``. None if it does not reach it."""
    family, address = socket_address(host, _UNUSED_PORT)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing, as this is UDP
            return probe.getsockname()[0]
    except OSError:
        return None


def fingerprint_of(certificate: bytes) -> bytes:
    """What the line has of a certificate (DER): its SHA-256."""
    return hashlib.sha256(certificate).digest()


def trusted_certificate(invitation: Invitation) -> str:
    """Connect to the inviting node. Returns its certificate in PEM form, if the line has it.

    Raises CannotJoin.
    """
    address = invitation.address
    try:
        certificate = served_certificate(address.host, address.port)
    except ssl.SSLError as error:
        raise CannotJoin(f"{address.url}: {describe_tls_error(error)}") from error
    except OSError as error:
        reason = describe_socket_error(address.host, error)
        raise CannotJoin(
            f"{address.url} cannot be reached: {reason}; is node {address.node} running, and"
            " does a firewall block the port?"
        ) from error
    if not hmac.compare_digest(fingerprint_of(certificate), invitation.fingerprint):
        raise CannotJoin(
            f"{address.url} has another certificate than the line says: this may be another"
            " machine, or the certificate was replaced; nothing was sent to it. Run"
            " `fractal-rm pair invite` there again"
        )
    return ssl.DER_cert_to_PEM_cert(certificate)


def send_request(invitation: Invitation, certificate: str, request: PairRequest) -> PairAnswer:
    """Send the request to the inviting node, over a connection with ``certificate`` (PEM) only.

    Raises CannotJoin, and MaybeJoined if the node may have done what is asked.
    """
    address = invitation.address
    connection = http.client.HTTPSConnection(
        address.host,
        address.port,
        timeout=CONNECT_S,
        context=ssl.create_default_context(cadata=certificate),
    )
    try:
        return _exchange(connection, invitation, request)
    finally:
        connection.close()


def _exchange(
    connection: http.client.HTTPSConnection, invitation: Invitation, request: PairRequest
) -> PairAnswer:
    address = invitation.address
    try:
        connection.connect()
    except ssl.SSLError as error:
        raise CannotJoin(f"{address.url}: {describe_tls_error(error)}") from error
    except OSError as error:
        raise CannotJoin(f"{address.url} cannot be reached: {error}") from error
    connection.sock.settimeout(ANSWER_S)
    headers = {
        "Host": f"{bracketed(address.host)}:{address.port}",
        "Authorization": f"Bearer {secret_text(invitation.secret)}",
        "Content-Type": "application/json",
    }
    try:
        connection.request("POST", PAIR_PATH, msgspec.json.encode(request), headers)
        reply = connection.getresponse()
        body = reply.read(_MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise MaybeJoined(
            f"{address.url} has not answered: {error or type(error).__name__}"
        ) from error
    if reply.status >= 500 and reply.status != 503:
        raise MaybeJoined(_refusal(address, reply.status, body))
    if reply.status != 200:
        raise CannotJoin(_refusal(address, reply.status, body))
    try:
        answer = read_json_as(body, PairAnswer)
    except (Malformed, msgspec.ValidationError) as error:
        raise MaybeJoined(f"{address.url} has answered something else: {error}") from error
    if answer.node != address.node or not is_token(answer.token):
        raise MaybeJoined(f"{address.url} has answered as node {answer.node[:60]!r}")
    return answer


def _refusal(address: NodeAddress, status: int, body: bytes) -> str:
    problem = _Problem()
    with suppress(Malformed, msgspec.ValidationError):
        problem = read_json_as(body, _Problem)
    reason = problem.detail or problem.title or f"status {status}"
    if reason == NOT_KNOWN:
        reason = "a newer invitation has replaced this line, or the line was never valid there"
    text = f"node {address.node} refuses: {reason}"
    if status in (401, 403):
        text += f". Run `fractal-rm pair invite` on node {address.node} again, and use the new line"
    return text
