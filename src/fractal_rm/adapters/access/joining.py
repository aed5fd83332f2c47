"""Adds another node to this node, when it has sent the secret of an invitation."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import msgspec

from fractal_rm.adapters.access.invitations import Invitations
from fractal_rm.config.invitation_file import invitation_change
from fractal_rm.config.load import load, read_file
from fractal_rm.config.model import Config
from fractal_rm.config.pair_files import PairFolder, new_token, node_entry, set_token
from fractal_rm.config.staged_files import PRIVATE, FileChange, FilesNotWritten, StagedFiles
from fractal_rm.config.token_file import TokenFile, TokensNotWritten, TokensUnreadable
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.domain.pairing import (
    CannotPair,
    PairAnswer,
    PairingRefused,
    PairRequest,
    StoredInvitation,
    check_clocks,
    check_distinct,
)
from fractal_rm.domain.tokens import TOKEN_BYTES, is_token, token_text
from fractal_rm.engine.ports import Clock, Random, Telemetry

_CAUSES = (FilesNotWritten, TokensNotWritten, TokensUnreadable)


class JoiningNodes:
    """Port `PairingHost`. Writes the entry, the certificate and the tokens of the other node."""

    def __init__(
        self,
        folder: Path,
        invitations: Invitations,
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
    ) -> None:
        """``folder`` has the five files. The running node notices their change by itself."""
        self._folder = folder
        self._invitations = invitations
        self._clock = clock
        self._random = random
        self._telemetry = telemetry

    def accept(self, secret: str, request: PairRequest) -> PairAnswer:
        """Add the node of a request, and use up the invitation; see the port."""
        try:
            answer = self._accept(secret, request)
        except FractalError as error:
            self._telemetry.problem("pair_refused", reason=error.reason)
            raise PairingRefused(error.reason) from error
        node, url = request.address.node, request.address.url
        self._telemetry.event("paired", node=node, url=url, replaced=answer.replaced or "-")
        return answer

    def _accept(self, secret: str, request: PairRequest) -> PairAnswer:
        invitation = self._opened(secret)
        address = request.address.checked()
        config = self._configuration()
        own_id = config.node_id or ""
        check_distinct(own_id, address.node)
        now_ms = self._clock.now_ms()
        check_clocks(now_ms, request.now_ms)
        if not is_token(request.token):
            raise CannotPair("the request has no valid token")
        _check_certificate(request.certificate)
        token = token_text(self._random.token(TOKEN_BYTES))
        changes = self._changes(config, invitation, request)
        token_file = TokenFile(Path(config.state_path))
        with StagedFiles(changes) as files, token_file.changing() as tokens:
            self._opened(secret)  # the token file is locked now: no other request uses it
            set_token(tokens, new_token(address.node, token, now_ms))
            files.commit()
            self._configuration()  # raises an error if the new entry cannot be used
        old = config.nodes.get(address.node)
        return PairAnswer(own_id, token, None if old is None else old.url)

    def _opened(self, secret: str) -> StoredInvitation:
        invitation = self._invitations.opened()
        if invitation is None or not invitation.is_for(secret):
            raise CannotPair("this invitation was used by another request, or has just expired")
        return invitation

    def _configuration(self) -> Config:
        try:
            return load(self._folder, os.environ).config
        except ConfigRejected as error:
            headline = next(iter(error.findings)).headline()
            raise CannotPair(
                f"the configuration of the inviting node has errors; run `fractal-rm check` there."
                f" The first is {headline}"
            ) from error

    def _changes(
        self, config: Config, invitation: StoredInvitation, request: PairRequest
    ) -> list[FileChange]:
        pair, peer = PairFolder(config), request.address
        nodes_conf = self._folder / "nodes.conf"
        text = read_file(nodes_conf)
        if not isinstance(text, str):
            raise CannotPair(f"nodes.conf of the inviting node cannot be read: {text.text}")
        new_text = node_entry(text, config.nodes, peer, pair).in_text(text)
        used = msgspec.structs.replace(invitation, used_by=peer.node)
        return [
            FileChange(pair.certificate_of(peer.node), request.certificate.encode(), PRIVATE),
            FileChange(pair.token_for(peer.node), f"{request.token}\n".encode(), PRIVATE),
            FileChange(nodes_conf, new_text.encode()),
            invitation_change(pair.invitation, used),
        ]


def _check_certificate(pem: str) -> None:
    """Raise CannotPair unless the text is a certificate."""
    try:
        ssl.create_default_context(cadata=ssl.PEM_cert_to_DER_cert(pem))
    except (ssl.SSLError, ValueError) as error:
        raise CannotPair("the certificate of the other node cannot be read") from error
