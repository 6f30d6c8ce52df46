"""The server's own side: tokens, TLS, DNS, the token on the dashboard."""

import datetime as dt
import ipaddress
import json
import socket
import ssl
import urllib.error
import urllib.request

import pytest
from maestro_service_registry import (
    InvalidInput,
    ServiceRegistry,
    StoreUnavailable,
    open_store,
)
from registry_support import serving, wait_until


def ask(address, path, method="GET", body=None, token=None, context=None):
    """Return status and text of one request."""
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(address + path, raw, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20, context=context) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


REGISTER = "/v1/agent/service/register"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that wants tokens; its address, and a token for each scope."""
    from maestro_service_registry._server._access import new_token

    folder = tmp_path_factory.mktemp("guarded")
    scopes = ("register:web", "register:shop", "write", "admin")
    made = {s: new_token([s]) for s in scopes}
    file = folder / "tokens"
    file.write_text("\n".join(line for _, line in made.values()), encoding="utf-8")
    with serving(f"sqlite:///{folder}/r.db", "--token-file", str(file)) as (address, _):
        yield address, {scope: token for scope, (token, _) in made.items()}


@pytest.mark.parametrize(
    "body",
    [
        {"Name": "web", "name": "shop", "Port": 1},
        {"name": "web", "NAME": "shop", "Port": 1},
        {"Name": "web", "N_ame": "shop", "Port": 1},
        {"Name": "web-2", "ID": "shop-1", "Port": 1},
    ],
)
def test_a_token_for_one_service_never_touches_another(guarded, body):
    address, tokens = guarded
    theirs = {"Name": "shop", "ID": "shop-1", "Port": 2}
    assert ask(address, REGISTER, "PUT", theirs, tokens["register:shop"])[0] == 200
    web = tokens["register:web"]
    assert ask(address, REGISTER, "PUT", body, web)[0] == 403
    remove = "/v1/agent/service/deregister/shop-1"
    assert ask(address, remove, "PUT", b"", web)[0] == 403
    with ServiceRegistry.open(address, token=tokens["admin"]) as registry:
        (kept,) = registry.find("shop")
        assert (kept.id, kept.port) == ("shop-1", 2)
        assert registry.find("web") == registry.find("web-2") == ()


def test_a_token_for_a_service_reports_its_checks_and_no_others(guarded):
    address, tokens = guarded
    web = tokens["register:web"]
    body = {"Name": "web-ttl", "Port": 1, "Check": {"TTL": "30s"}}
    assert ask(address, REGISTER, "PUT", body, web)[0] == 200
    path = "/v1/agent/check/pass/service:web-ttl"
    assert ask(address, path, "PUT", b"", tokens["register:shop"])[0] == 403
    assert ask(address, path, "PUT", b"", web)[0] == 200


def test_a_check_is_added_with_the_scope_of_its_service(guarded):
    address, tokens = guarded
    web, shop = tokens["register:web"], tokens["register:shop"]
    for name, token in (("web-add", web), ("shop-add", shop)):
        body = {"Name": name, "Port": 1, "Check": {"TTL": "30s", "Status": "passing"}}
        assert ask(address, REGISTER, "PUT", body, token)[0] == 200
    path = "/v1/agent/check/register"
    more = {"ServiceID": "web-add", "Name": "more", "ID": "more", "TTL": "30s"}
    for token in (None, shop, tokens["write"]):
        assert ask(address, path, "PUT", more, token)[0] == 403
    assert ask(address, path, "PUT", more, web)[0] == 200
    stray = more | {"ServiceID": "nowhere"}
    assert ask(address, path, "PUT", stray, tokens["write"])[0] == 403
    assert ask(address, path, "PUT", stray, tokens["admin"])[0] == 400


def test_a_service_never_takes_the_check_of_another(guarded):
    address, tokens = guarded
    web, shop = tokens["register:web"], tokens["register:shop"]
    check = {"CheckID": "service:shop-own", "TTL": "30s"}
    theirs = {"Name": "shop-own", "Port": 1, "Check": check}
    assert ask(address, REGISTER, "PUT", theirs, shop)[0] == 200
    thief = {"Name": "web-thief", "Port": 1, "Check": check}
    status, text = ask(address, REGISTER, "PUT", thief, web)
    assert (status, "the service shop-own has this check" in text) == (400, True)
    plain = {"Name": "web-thief", "Port": 1}
    assert ask(address, REGISTER, "PUT", plain, web)[0] == 200
    added = check | {"ServiceID": "web-thief"}
    assert ask(address, "/v1/agent/check/register", "PUT", added, web)[0] == 400
    path = "/v1/agent/check/pass/service:shop-own"
    assert ask(address, path, "PUT", b"", web)[0] == 403
    assert ask(address, path, "PUT", b"", shop)[0] == 200
    assert ask(address, REGISTER, "PUT", theirs, shop)[0] == 200, "its own, again"


@pytest.mark.parametrize("body", [b"nonsense", b"[1]", b"\xff", b"{}"])
def test_a_body_that_is_no_registration_is_refused_in_words(guarded, body):
    address, tokens = guarded
    status, text = ask(address, REGISTER, "PUT", body, tokens["admin"])
    assert status == 400
    assert "JSON" in text or "DNS label" in text


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("read", {}),
        ("commit", {"ops": [["a", 1]], "expect": {}}),
        ("commit", {"ops": 3, "expect": {}}),
        ("renew", {"leases": None}),
        ("events", {"prefix": "", "since": 1}),
    ],
)
def test_a_store_request_that_lacks_something_is_refused_in_words(
    server_url, verb, body
):
    status, text = ask(server_url, f"/v1/maestro/store/{verb}", "POST", body)
    assert (status, "Traceback" in text) == (400, False)
    assert f"'{verb}' needs" in text


def certificates(folder):
    """Write an authority, and a server's and a client's certificate of it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = dt.datetime.now(dt.UTC)

    def make(name, signer=None):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer, signing = signer or (subject, key)
        place = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(signer is None, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([place]), critical=False)
        )
        certificate = builder.sign(signing, hashes.SHA256())
        pem = serialization.Encoding.PEM
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(pem))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                pem,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return subject, key

    authority = make("authority")
    make("server", authority)
    make("client", authority)


def test_tls_with_certificates_on_both_sides(tmp_path):
    certificates(tmp_path)
    options = ["--tls-cert", f"{tmp_path}/server.crt", "--tls-key"]
    options += [f"{tmp_path}/server.key", "--tls-ca", f"{tmp_path}/authority.crt"]
    trusting = ssl.create_default_context(cafile=f"{tmp_path}/authority.crt")
    known = ssl.create_default_context(cafile=f"{tmp_path}/authority.crt")
    known.load_cert_chain(f"{tmp_path}/client.crt", f"{tmp_path}/client.key")
    with serving(f"sqlite:///{tmp_path}/r.db", *options) as (address, _):
        assert address.startswith("https://127.0.0.1:")
        with ServiceRegistry.open(address, tls=known) as registry:
            with (
                registry.register("web", port=1, id="w1"),
                registry.lock("job") as lock,
            ):
                assert [i.id for i in registry.find("web")] == ["w1"]
                assert lock.guard(verify=True) == lock.fence
        for refused in (trusting, None):  # no certificate; an authority unknown to us
            store = open_store(address, tls=refused)
            with pytest.raises(
                StoreUnavailable, match="(?i)certificate|ssl|reset|closed"
            ):
                store.now()
            store.close()


def test_a_certificate_without_its_key_is_refused(tmp_path):
    from maestro_service_registry._server._serve import serve

    with pytest.raises(InvalidInput, match="--tls-key"):
        serve("memory://", bind="127.0.0.1:0", cert=tmp_path / "server.crt")


@pytest.fixture
def names(registry):
    """A responder on a free port, and a function that asks it."""
    dnslib = pytest.importorskip("dnslib")
    from maestro_service_registry._server._dns import Responder

    responder = Responder(registry, "127.0.0.1", 0)
    responder.start()

    def question(name, kind):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(15)
            packed = dnslib.DNSRecord.question(name, kind).pack()
            sock.sendto(b"nonsense", ("127.0.0.1", responder.port))
            sock.sendto(packed, ("127.0.0.1", responder.port))
            raw = sock.recv(4096)
        answer = dnslib.DNSRecord.parse(raw)
        return dnslib.RCODE[answer.header.rcode], answer, len(raw)

    yield question
    responder.close()


def test_dns_tells_usable_instances(registry, names):
    registry.register("web", port=81, id="w1", host="127.0.0.2", tags={"http"})
    registry.register("web", port=82, id="w2", host="::1", weight=7)
    registry.register("web", port=83, id="w3", host="127.0.0.4").drain()
    code, answer, _ = names("web.service.consul", "A")
    assert (code, [str(rr.rdata) for rr in answer.rr]) == ("NOERROR", ["127.0.0.2"])
    assert answer.rr[0].ttl == 0
    _, answer, _ = names("WEB.service.consul", "AAAA")
    assert [str(rr.rdata) for rr in answer.rr] == ["::1"]
    _, answer, _ = names("web.service.consul", "SRV")
    assert {(rr.rdata.port, rr.rdata.weight) for rr in answer.rr} == {
        (81, 100),
        (82, 7),
    }
    places = {str(rr.rname): str(rr.rdata) for rr in answer.ar}
    targets = {rr.rdata.port: places[str(rr.rdata.target)] for rr in answer.rr}
    assert targets == {81: "127.0.0.2", 82: "::1"}
    _, answer, _ = names("http.web.service.consul", "SRV")
    assert [rr.rdata.port for rr in answer.rr] == [81]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nobody.service.consul", "NXDOMAIN"),
        ("bad_name.service.consul", "NXDOMAIN"),
        ("example.com", "REFUSED"),
        ("service.consul", "REFUSED"),
    ],
)
def test_dns_refuses_what_it_does_not_know(names, name, code):
    assert names(name, "A")[0] == code


def test_a_dns_answer_fits_its_packet(registry, names):
    name = "a" * 63
    for n in range(20):
        registry.register(name, port=8000 + n, id=f"i{n}", host=f"127.0.1.{n}")
    code, answer, size = names(f"{name}.service.consul", "SRV")
    assert code == "NOERROR"
    assert 1 <= len(answer.rr) <= 8
    assert size <= 512


def test_dns_says_so_when_the_store_is_away(tmp_path):
    pytest.importorskip("dnslib")
    import dnslib
    from maestro_service_registry._server._dns import Responder

    registry = ServiceRegistry.open(f"sqlite:///{tmp_path}/r.db")
    responder = Responder(registry, "127.0.0.1", 0)
    responder.start()
    registry.close()
    packed = dnslib.DNSRecord.question("web.service.consul", "A").pack()
    answer = dnslib.DNSRecord.parse(responder.answer(packed))
    assert dnslib.RCODE[answer.header.rcode] == "SERVFAIL"
    responder.close()


def test_the_server_answers_names_too(tmp_path):
    from registry_support import free_port

    dns = free_port()
    url = f"sqlite:///{tmp_path}/r.db"
    with (
        serving(url, "--dns", f"127.0.0.1:{dns}"),
        ServiceRegistry.open(url) as registry,
    ):
        registry.register("web", port=81, id="w1", host="127.0.0.2")
        import dnslib

        def answered():
            packed = dnslib.DNSRecord.question("web.service.consul", "A").send(
                "127.0.0.1", dns, timeout=10
            )
            return [str(rr.rdata) for rr in dnslib.DNSRecord.parse(packed).rr]

        wait_until(lambda: answered() == ["127.0.0.2"])
