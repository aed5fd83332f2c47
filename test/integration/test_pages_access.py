"""Who may open the pages: with a token, a session, an address, or not at all."""

from __future__ import annotations

import socket
import time
from urllib.parse import parse_qs, quote, urljoin

import pytest

from fractal_rm.config.model import PublicUrl
from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.access import Scope
from fractal_rm.domain.address import read_network
from fractal_rm.domain.sessions import SESSION_MS
from fractal_rm.domain.tokens import Token, digest_of
from operator_stage import OPEN, operator_stage
from page_list import routes
from visitors import FORM, FROM_ELSEWHERE, HOST, Visitor

PUBLIC = PublicUrl("https", "fractal.example", 443)
RUN = next(iter(OPEN.values()))


@pytest.fixture
def stage(tmp_path):
    with operator_stage(tmp_path) as stage:
        yield stage


@pytest.fixture
def person(stage):
    """Somebody on another machine, who reaches the node through a proxy that nobody trusts."""
    return elsewhere(stage.port)


def elsewhere(port: int) -> Visitor:
    visitor = Visitor(port, **FROM_ELSEWHERE)
    visitor.fields["Sec-Fetch-Site"] = "same-origin"
    visitor.origin = None
    return visitor


def set_tokens(state, *tokens: Token) -> None:
    with TokenFile(state).changing() as stored:
        stored[:] = tokens


def token(text: str, *scopes: Scope, expires_ms: int | None = None) -> Token:
    return Token(text, digest_of(text), list(scopes), 0, expires_ms)


# --- signing in -----------------------------------------------------------------------------------


def test_somebody_who_has_not_signed_in_is_asked_for_a_token_and_gets_to_the_page(person):
    asked = person.read("/runs?flow=1&text=a+%26+b%2F%C3%A9")
    assert (asked.status, asked.text) == (303, "")
    path = person.follow("/runs", asked)
    assert path.startswith("/sign-in?next=")
    wanted = parse_qs(path.partition("?")[2])["next"][0]

    answer = person.sign_in("read", next=wanted)

    assert person.follow("/sign-in", answer) == "/runs?flow=1&text=a+%26+b%2F%C3%A9"
    assert person.read("/runs").status == 200


@pytest.mark.parametrize(
    ("path", "root"),
    [("/runs", "./"), ("/runs/x/cancel", "../../"), ("/flows/a%20b", "../"), ("/runs/", "../")],
)
def test_the_way_to_the_page_to_sign_in_is_relative(person, path, root):
    assert person.read(path).headers["location"].startswith(f"{root}sign-in?next=")


def test_a_page_that_reads_itself_again_goes_to_the_page_to_sign_in(person):
    answer = person.read("/runs/x", HX_Request="true")
    assert (answer.status, answer.headers["hx-redirect"]) == (200, "../sign-in?next=runs%2Fx")


def test_after_signing_in_nobody_is_sent_to_another_site(person):
    for hostile in (
        "https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "../x",
        "runs/../../x", "runs/%2E./%2e%2e/x", "a\r\nSet-Cookie: x", "runs/\u202e", "\\evil",
    ):  # fmt: skip
        answer = person.sign_in("read", next=hostile)
        if answer.status == 303:  # a name of a page that there is not
            found = urljoin(f"http://{HOST}/below/sign-in", answer.headers["location"])
            assert found.startswith(f"http://{HOST}/below/")
        else:
            assert (answer.status, answer.cookies) == (400, [])
            assert person.read("/sign-in?next=" + quote(hostile, safe="")).status == 400


def test_a_path_that_is_too_long_to_come_back_to_is_left_out(person):
    assert person.read("/runs?text=" + "x" * 3_000).headers["location"] == "./sign-in"


def test_a_wrong_token_an_expired_one_and_none_are_refused_with_the_reason(tmp_path, stage, person):
    set_tokens(tmp_path, token("old", Scope.READ, expires_ms=1), token("good", Scope.READ))
    for text, reason in (
        ("wrong", "The token was refused: "), ("old", "the token old has expired"),
        ("", "Enter a token"), ("x" * 5_000, "The token was refused: "),
    ):  # fmt: skip
        answer = person.sign_in(text)
        assert (answer.status, answer.cookies) == (403, [])
        assert reason in answer.text
    assert person.sign_in("good").status == 303


def test_refused_tokens_are_counted_and_logged_without_the_token(stage, person):
    for _ in range(3):
        person.sign_in("frm_secret")
    assert stage.service.refusals.codes_text() == "unauthenticated: 3"
    assert "unauthenticated: 3" in stage.service.status().text


def test_a_session_ends_when_its_token_is_revoked_or_made_anew(tmp_path, person):
    set_tokens(tmp_path, token("t", Scope.READ), token("other", Scope.READ))
    person.sign_in("t")
    assert person.read("/runs").status == 200
    set_tokens(tmp_path, token("other", Scope.READ))
    assert person.read("/runs").status == 303
    made_anew = Token("t", digest_of("t2"), [Scope.ADMIN], 0)
    set_tokens(tmp_path, made_anew)
    assert person.read("/runs").status == 303


def test_a_session_has_the_scopes_that_its_token_has_now(tmp_path, person):
    set_tokens(tmp_path, token("t", Scope.READ))
    person.sign_in("t")
    set_tokens(tmp_path, token("t", Scope.TRIGGER))
    answer = person.read("/runs")
    assert answer.status == 403
    assert "this needs the scope read" in answer.text


def test_sessions_go_on_over_a_restart_unless_the_key_is_gone(tmp_path):
    cookies = {}
    with operator_stage(tmp_path) as stage:
        first = elsewhere(stage.port)
        first.sign_in("read")
        cookies[stage.port] = list(first.cookies.values())
    key = tmp_path / "session.key"
    assert key.stat().st_mode & 0o777 == 0o600
    for content, status in ((key.read_bytes(), 200), (b"x" * 32, 303), (b"short", 303)):
        key.write_bytes(content)
        with operator_stage(tmp_path) as stage:
            person = elsewhere(stage.port)
            [session] = next(iter(cookies.values()))
            person.cookies = {f"fractal_rm_{stage.port}": session}
            assert person.read("/runs").status == status
    assert len(key.read_bytes()) == 32


def test_the_cookie_of_another_node_on_this_machine_is_not_read(tmp_path, stage):
    (tmp_path / "other").mkdir()
    person = Visitor(stage.port)
    person.sign_in("operate")
    with operator_stage(tmp_path / "other") as other:
        neighbour = Visitor(other.port)
        neighbour.cookies = person.cookies  # browsers send cookies to every port of a host
        assert "Sign out" not in neighbour.read().text
        neighbour.sign_in("read")
        assert len(neighbour.cookies) == 2
        assert "Sign out" in neighbour.read().text
    assert "Sign out" in person.read().text


def test_a_changed_cookie_is_no_session(person):
    person.sign_in("read")
    [(name, text)] = person.cookies.items()
    changed = [
        text[:-1], text + "x", "9" + text, text.replace(".", ".A", 1), text.replace("re", "ad"),
        "9" * 200 + text[13:], "", "...", "\xff" + text, "1" * 9_000, f'"{text}"',
    ]  # fmt: skip
    for each in changed:
        person.cookies = {name: each}
        assert person.read("/runs").status == 303, each
    person.cookies = {name: text}
    assert person.read("/runs").status == 200


def test_the_page_to_sign_in_warns_of_a_connection_that_others_can_read(tmp_path, stage, person):
    warning = "This connection is not encrypted"
    assert warning in person.read("/sign-in").text
    assert warning in person.sign_in("wrong").text
    assert warning not in Visitor(stage.port).read("/sign-in").text
    (tmp_path / "other").mkdir()
    with operator_stage(tmp_path / "other", public_url=PUBLIC) as behind_https:
        assert warning not in elsewhere(behind_https.port).read("/sign-in").text


def test_signing_out_forgets_the_session(person):
    person.sign_in("read")
    answer = person.send("/sign-out")
    assert answer.status == 303
    assert person.cookies == {}
    assert "You are signed out." in person.read(person.follow("/sign-out", answer)).text
    assert person.read("/runs").status == 303


# --- the cookie -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "forwarded", "secure"),
    [
        (None, FROM_ELSEWHERE, True),
        ("https://fractal.example", FROM_ELSEWHERE, True),
        ("own", {}, False),
    ],
)
def test_the_cookie_is_only_for_https_if_the_browser_uses_it(tmp_path, origin, forwarded, secure):
    with operator_stage(tmp_path, public_url=PUBLIC) as stage:
        person = Visitor(stage.port, **forwarded)
        person.origin = stage.url.rstrip("/") if origin == "own" else origin
        [cookie] = person.sign_in("read").cookies
    parts = [part.strip().lower() for part in cookie.split(";")[1:]]
    assert {"httponly", "samesite=lax", f"max-age={SESSION_MS // 1000}"} <= set(parts)
    assert ("secure" in parts) == secure
    # Without a path, browsers send it to all paths beside that of the form, below any base path.
    assert not any(part.startswith(("path", "domain")) for part in parts)


API = [
    "/startrm", "/v1/flows/1/runs", "/v1/runs", "//v1/runs", "/v1//runs", "/%761/runs", "/v1/x",
    "/metrics", "/schema", "/v1/pair", "/runs/../v1/runs", "/static/../v1/runs",
    "/sign-in/../startrm", "http://127.0.0.1/v1/runs", "/startrm/", "//startrm", "/v1", "/livez",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD"])
def test_a_cookie_counts_at_the_pages_only(stage, person, method):
    person.sign_in("admin")
    body = b"{}" if method in ("POST", "PUT") else None
    for path in API:
        answer = person.ask(method, path, body, Content_Type="application/json")
        if "/../" in path:  # it is below the pages, and there is no such page
            assert answer.status in (403, 404, 405), path
            assert answer.headers["content-type"].startswith("text/html"), path
        else:
            assert answer.status == 401, path
    assert stage.actions.requests == []


@pytest.mark.parametrize("path", ["/runs/start", "/runs//start", "//runs/start/", "/runs/st%61rt"])
def test_an_endpoint_below_a_page_takes_no_cookie(tmp_path, path):
    with operator_stage(tmp_path, endpoint="/runs/start") as stage:
        person = elsewhere(stage.port)
        person.sign_in("trigger")
        assert person.ask("POST", path, b"{}", Content_Type="application/json").status == 401


def test_a_token_in_the_request_counts_more_than_a_cookie(person):
    person.sign_in("admin")
    assert person.read("/runs", Authorization="Bearer trigger").status == 403
    assert person.read("/runs", Authorization="Bearer wrong").status == 401
    # A proxy that asks for a password itself passes it on.
    assert person.read("/runs", Authorization="Basic YTpi").status == 200


# --- who is refused -------------------------------------------------------------------------------


def test_a_node_without_tokens_tells_a_browser_what_to_do(tmp_path):
    with operator_stage(tmp_path) as stage:
        set_tokens(tmp_path)
        person = elsewhere(stage.port)
        for path in ("/", "/runs", "/sign-in", "/static/x/style.css"):
            answer = person.read(path)
            assert answer.status == 403
            assert "fractal-rm token new NAME" in answer.text
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "<" not in answer.text.partition("</title>")[0].partition("<title>")[2]
        assert person.read("/", Accept="*/*").headers["content-type"] == "application/problem+json"
        assert person.read("/v1/runs").headers["content-type"] == "application/problem+json"
        set_tokens(tmp_path, token("new", Scope.READ))
        assert person.read("/").status == 303


def test_what_a_refusal_quotes_of_a_request_is_text(stage):
    answer = Visitor(stage.port).read("/", Host="a<b>'\"&x")
    assert answer.status in (400, 421)
    assert "<b>" not in answer.text
    answer = Visitor(stage.port).read("/", Host="evil.example")
    assert answer.status == 421
    assert "rest.public_url" in answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_a_trusted_peer_signs_in_like_everybody(tmp_path):
    proxies, peers = (read_network(HOST),), (read_network("192.0.2.0/24"),)
    with operator_stage(tmp_path, trusted_proxies=proxies, trusted_peers=peers) as stage:
        peer = elsewhere(stage.port)
        assert peer.read("/runs").status == 303
        peer.sign_in("read")
        assert peer.read("/runs").status == 200
        set_tokens(tmp_path)
        answer = peer.read("/runs")
        assert answer.status == 403
        assert "other machines may only POST to /startrm" in answer.text


def test_on_this_machine_one_reads_without_a_token_and_acts_with_one(stage):
    local = Visitor(stage.port)
    assert local.read("/runs").status == 200
    answer = local.send(f"/runs/{RUN}/cancel")
    assert answer.status == 403
    assert "this needs the scope operate" in answer.text
    assert stage.actions.requests == []


def test_a_form_of_somebody_whose_session_has_ended_is_not_sent(stage, person):
    person.sign_in("operate")
    form_token = person.form_token("/runs")
    person.cookies.clear()
    answer = person.send(f"/runs/{RUN}/cancel", {"form_token": form_token})
    assert answer.status == 403
    assert "sign-in?next=runs" in answer.text
    assert stage.actions.requests == []


# --- forms of other sites -------------------------------------------------------------------------


def test_a_form_of_another_site_does_nothing(stage):
    person = Visitor(stage.port)
    person.sign_in("operate")
    form_token = person.form_token("/runs")
    for fields in (
        {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "nonsense"}, {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:9"}, {"Origin": "https://evil.example"}, {"Origin": "null"},
        {"Origin": "http://localhost:9", "Sec_Fetch_Site": "same-origin"},
        {"Origin": person.origin, "Sec_Fetch_Site": "cross-site"},
    ):  # fmt: skip
        for path in (f"/runs/{RUN}/cancel", "/sign-out", "/settings"):
            answer = person.send(path, {"form_token": form_token}, **fields)
            assert answer.status in (403, 421), (path, fields)
            assert answer.cookies == []
    assert stage.actions.requests == []


def test_a_form_without_the_token_of_its_session_does_nothing(stage):
    person, other = Visitor(stage.port), Visitor(stage.port)
    before = person.form_token()
    person.sign_in("operate")
    other.sign_in("admin")
    old = person.form_token("/runs")
    person.sign_in("operate")
    time.sleep(0.002)  # the next session ends a millisecond later, so it is another one
    person.sign_in("operate")
    for wrong in (before, old, other.form_token("/runs"), "", "x", "\u00e9", "x" * 40_000):
        answer = person.send("/sign-out", {"form_token": wrong})
        assert (answer.status, answer.cookies) == (403, []), wrong
        assert "another session" in answer.text
        answer = person.send(f"/runs/{RUN}/cancel", {"form_token": wrong})
        assert answer.status in (400, 403)
    assert stage.actions.requests == []


def test_without_a_session_only_a_browser_that_names_the_page_may_start_a_run(stage):
    local = Visitor(stage.port)
    form_token = local.form_token("/runs")
    answer = local.send("/flows/1/try", {"form_token": form_token}, Origin=None)
    assert answer.status == 403
    assert "sign in first" in answer.text


def test_a_text_browser_that_names_no_page_can_sign_in_and_act(stage):
    person = Visitor(stage.port)
    person.origin = None
    assert person.sign_in("operate").status == 303
    path = f"/runs/{RUN}/discard"
    answer = person.send(path, {"form_token": person.form_token("/runs")})
    assert "another session" not in answer.text
    assert answer.status != 403


def test_a_form_that_is_no_form_is_refused_with_a_page(stage):
    person = Visitor(stage.port)
    for body, fields, status in (
        (b"a=" + b"x" * 70_000, {}, 413),
        (b"form_token=x", {"Content_Type": "text/plain"}, 400),
        (b"form_token=x", {"Content_Type": "multipart/form-data; boundary=x"}, 400),
        (b"&" * 60_000, {}, 403),
        (b"\xff=\xff", {}, 400),
        (b"", {}, 403),
    ):
        headers = {"Content_Type": FORM, "Origin": person.origin, **fields}
        answer = person.ask("POST", "/sign-in", body, **headers)
        assert answer.status == status
        assert answer.headers["content-type"].startswith("text/html")


def test_a_form_that_is_too_large_is_refused_before_it_was_sent(stage):
    with socket.create_connection((HOST, stage.port), 20) as client:
        client.sendall(
            f"POST /sign-in HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {FORM}\r\n"
            "Content-Length: 1000000000\r\n\r\n".encode()
        )
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


# --- headers --------------------------------------------------------------------------------------

ERRORS = ["/runs/x/y/z", "/runs?nosuch=1", "/static/x/style.css", "/static/none", "/sign-out",
          "/runs/" + "x" * 300, "/dead/%00", "/sign-in?a"]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "POST"])
def test_every_response_has_the_headers_of_the_pages(stage, method):
    local = Visitor(stage.port)
    paths = [*routes(), *ERRORS, local.read("/").text.partition('href="./static')[2].split('"')[0]]
    paths[-1] = "/static" + paths[-1]
    for path in paths:
        answer = local.ask(method, path)
        headers = answer.headers
        assert answer.status < 500, path
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        is_asset = path == paths[-1] and method in ("GET", "HEAD")
        assert ("immutable" in headers["cache-control"]) == is_asset, path
        assert is_asset or headers["cache-control"] == "no-store"
        assert "server" not in headers
        if method == "HEAD":
            assert answer.text == ""


# --- refusals and paths that lead nowhere ---------------------------------------------------------


def test_whoever_lacks_a_scope_is_led_to_the_page_to_sign_in_and_back(person):
    person.sign_in("read")
    page = person.read("/config/edit/flows.conf")
    assert page.status == 403
    assert 'href="../../sign-in?next=config/edit/flows.conf"' in page.text


@pytest.mark.parametrize("path", ["/nope", "/nope/1?a=b", "/Runs"])
def test_a_browser_that_asks_for_nothing_gets_a_page_that_says_so(stage, person, path):
    for browser in (Visitor(stage.port), person):
        page = browser.read(path)
        assert page.status == 404
        assert "text/html" in page.headers["content-type"]
        assert "The node has no page at this address" in page.text
    person.sign_in("read")
    assert "Sign out" in person.read(path).text


@pytest.mark.parametrize(
    ("path", "accept"), [("/nope", "*/*"), ("/v1/nope", "text/html"), ("/startrm/x", "text/html")]
)
def test_a_program_that_asks_for_nothing_gets_a_problem(stage, path, accept):
    answer = Visitor(stage.port, Accept=accept).read(path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
