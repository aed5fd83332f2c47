"""A running node warns of a certificate that expires soon: in the log and in /readyz."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import trustme

from components import Components
from nodes import NodeProcess, wait_until


def test_a_node_warns_of_a_certificate_until_it_is_renewed(tmp_path):
    components = Components()
    node = NodeProcess(tmp_path / "node", components=components.port, mode="api")
    authority, now = trustme.CA(), datetime.now(timezone.utc)
    cert = tmp_path / "cert.pem"

    def issue(days: int) -> None:
        end = now + timedelta(days=days, hours=12)
        issued = authority.issue_cert("a", not_before=now - timedelta(days=1), not_after=end)
        issued.private_key_and_cert_chain_pem.write_to_path(cert)

    def rest_text() -> str:
        checks = node.get("/readyz")[2]["checks"]
        return next(check["text"] for check in checks if check["name"] == "rest")

    issue(5)
    node.edit("components", component1__config__tls={"cert": str(cert)})
    node.start()
    warning = f"the certificate in {cert} (tls.cert of component component1) expires in 5 days, at "
    assert warning in rest_text()
    wait_until(lambda: f'certificate_expires why="{warning}' in node.log)
    assert f"warning[C226]: the certificate in {cert} expires in 5 days" in node.log
    issue(100)
    assert "certificate" not in rest_text()
    assert node.stop() == 0
    components.stop()
