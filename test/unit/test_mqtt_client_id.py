"""The MQTT client id in the state folder."""

from __future__ import annotations

import os

import pytest

from fractal_rm.adapters.mqtt.client_id import ClientId, ClientIdInUse, stored_client_id
from fractal_rm.adapters.operating_system import SystemRandom


def test_the_client_id_is_stored_and_begins_with_the_name_of_the_program(tmp_path):
    first = stored_client_id(tmp_path, SystemRandom())
    assert first == stored_client_id(tmp_path, SystemRandom())
    assert first.startswith("fractal-rm-")


@pytest.mark.parametrize("configured", [None, "node-a", "a/b", "x" * 1_000])
def test_a_client_id_is_used_by_one_process_at_a_time(tmp_path, configured):
    first = ClientId(configured, tmp_path, SystemRandom())
    with pytest.raises(ClientIdInUse, match=f"in use by process {os.getpid()}; stop that process"):
        ClientId(configured, tmp_path, SystemRandom())
    ClientId("its own", tmp_path, SystemRandom()).release()
    first.release()
    again = ClientId(configured, tmp_path, SystemRandom())
    assert again.text == first.text
    again.release()
