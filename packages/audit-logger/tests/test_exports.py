# ruff: noqa: RUF001 - full-width signs are what the tests are about
"""Exports: read back by parsers and schemas that are not ours."""

import asyncio
import csv
import io
import json
import re
import socket
import ssl
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest
from maestro_audit_logger import Actor, Resource, UnknownFormat
from maestro_audit_logger.exporters import (
    SyslogExporter,
    SyslogSender,
    exporter,
    names,
)
from maestro_audit_logger.exporters._syslog import (
    BOM,
    structured_data,
    syslog_message,
)

DATA = Path(__file__).parent / "data"
NASTY = 'a=b|c\\d"]e\nf\tg é'


@pytest.fixture
def audit(make_log):
    """A log with one event of each kind that exporters have to tell apart."""
    audit = make_log()
    ctx = {"ip": "203.0.113.7", "request_id": "r-1", "trace_id": "t-1"}
    audit.record("invoice.approve", resource=("invoice", "inv-7"), ctx=ctx)
    audit.record("user.login", actor=Actor.user("u-2", name="Kim"), outcome="denied")
    audit.record("user.delete", resource=("user", "u-9"), outcome="failure")
    audit.record("backup.run", actor=Actor.system("cron"), data={"n": 1})
    audit.record("a.b", resource=Resource("doc", NASTY), data={"text": NASTY})
    return audit


def exported(audit, name, **options):
    stream = io.BytesIO()
    count = exporter(name, **options).write(audit.query(), stream)
    assert count == 5
    return stream.getvalue()


def test_jsonl_is_the_stored_bytes(audit, folder):
    """Hashes and proofs stay checkable in the export."""
    stored = (folder / f"{1:020d}.jsonl").read_bytes()
    assert stored.endswith(exported(audit, "jsonl"))


def test_ocsf_validates_against_the_schema(audit):
    """OCSF 1.8.0, made into JSON Schema by others; see the source in the file."""
    jsonschema = pytest.importorskip("jsonschema")

    classes = json.loads((DATA / "ocsf-1.8.0.json").read_text("utf-8"))["classes"]
    rows = [json.loads(line) for line in exported(audit, "ocsf").splitlines()]
    for row in rows:
        schema = classes[str(row["class_uid"])]
        jsonschema.Draft202012Validator(schema).validate(row)
        assert row["type_uid"] == row["class_uid"] * 100 + row["activity_id"]
    assert [row["class_uid"] for row in rows] == [6003, 3002, 3001, 6003, 6003]
    assert rows[0]["src_endpoint"] == {"ip": "203.0.113.7"}
    broken = {key: value for key, value in rows[0].items() if key != "actor"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(classes["6003"]).validate(broken)


def test_the_ocsf_version_is_a_parameter(audit):
    """It is stated in every event."""
    first = json.loads(exported(audit, "ocsf", version="1.5.0").splitlines()[0])
    assert first["metadata"]["version"] == "1.5.0"


RFC5424 = json.loads((DATA / "rfc5424.json").read_text("utf-8"))["examples"]


@pytest.mark.parametrize("example", RFC5424)
def test_the_examples_of_rfc_5424_are_made_to_the_byte(example):
    """All four: with and without structured data, process, message, byte order mark."""
    message = (BOM if example["bom"] else b"") + example["msg"].encode()
    made = syslog_message(**example["parts"], message=message)
    assert made == example["message"].encode()


def test_the_escapes_of_rfc_5424():
    """Section 6.3.3: quotation mark, backslash, closing bracket; NILVALUE."""
    assert structured_data("x@1", {"k": 'a"b\\c]d'}) == r'[x@1 k="a\"b\\c\]d"]'
    assert structured_data("x@1", {}) == "-"


def test_syslog_is_read_back_by_an_independent_parser(audit):
    """syslog-rfc5424-parser finds every field, with nasty values whole."""
    parser = pytest.importorskip("syslog_rfc5424_parser")
    made = SyslogExporter(hostname="host.example", payload="json")
    for event in audit.query():
        message = parser.SyslogMessage.parse(made.encode(event).decode())
        data = message.sd["audit@32473"]
        assert data["seq"] == str(event.seq)
        assert data["actor"] == event.actor.id
        assert json.loads(message.msg.removeprefix("\ufeff")) == event.as_dict()
        assert message.facility.name == "audit"
        assert message.hostname == "host.example"
        if event.resource:
            # This parser leaves the escapes of section 6.3.3 in place.
            found = re.sub(r'\\(["\\\]])', r"\1", data["resource"])
            assert found == event.resource.id


def test_syslog_messages_have_the_form_of_the_rfc(audit):
    """PRI, version, timestamp, header fields of printable ASCII; octet counts true."""
    raw = exported(audit, "syslog", hostname="bad host\x07")
    count = 0
    while raw:
        length, _, rest = raw.partition(b" ")
        message, raw = rest[: int(length)], rest[int(length) :]
        pattern = rb"<1\d\d>1 \d{4}-\d\d-\d\dT[\d:.]+Z bad_host_ maestro-audit \d+ [!-~]{1,32} \["
        assert re.match(pattern, message)
        count += 1
    assert count == 5


def read_frames(connection, frames):
    data = b""
    while piece := connection.recv(65536):
        data += piece
    while data:
        length, _, rest = data.partition(b" ")
        frames.append(rest[: int(length)])
        data = rest[int(length) :]


def test_syslog_over_tls_arrives_whole(audit, tmp_path, require_program):
    """A real TLS server on the loopback, with a certificate made for it."""
    openssl = require_program("openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    frames = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve():
            raw, _ = listener.accept()
            with raw, server.wrap_socket(raw, server_side=True) as connection:
                read_frames(connection, frames)

        thread = threading.Thread(target=serve)
        thread.start()
        trust = ssl.create_default_context(cafile=str(certificate))
        made = SyslogExporter(payload="cef")
        with SyslogSender("localhost", port, context=trust, exporter=made) as sender:
            assert sender.send(audit.query()) == 5
        thread.join(20)
    assert [frame.split(b"\xef\xbb\xbf")[1][:6] for frame in frames] == [b"CEF:0|"] * 5


def parse_cef(line):
    """Read CEF as its specification says, from the back of each `key=`."""
    header = re.split(r"(?<!\\)\|", line, maxsplit=7)
    pairs = re.split(r"(?:^| )(\w+)=", header[7])[1:]
    unescape = {"\\\\": "\\", "\\=": "=", "\\n": "\n", "\\r": "\r"}
    fields = {}
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        fields[key] = re.sub(r"\\[\\=nr]", lambda m: unescape[m[0]], value)
    return header[:7], fields


def test_cef_escapes_header_and_extension(audit):
    """Nasty values come back whole, on one line."""
    lines = exported(audit, "cef", vendor="A|B\\C").decode().splitlines()
    assert len(lines) == 5
    header, fields = parse_cef(lines[-1])
    assert header[:2] == ["CEF:0", r"A\|B\\C"]
    assert fields["cs3Label"] == "resourceId"
    assert fields["cs3"] == NASTY


def test_leef_keeps_one_line_and_its_tabs(audit):
    """A value cannot add an attribute."""
    lines = exported(audit, "leef").decode().splitlines()
    head, _, body = lines[-1].rpartition("|x09|")
    assert head == "LEEF:2.0|Maestro|audit-logger|1.0|a.b"
    pairs = dict(pair.split("=", 1) for pair in body.split("\t"))
    assert pairs["usrName"] == "u-1"
    assert "\t" not in pairs["resource"]


def test_csv_payloads_come_out_inert(make_log):
    """payloadbox/csv-injection-payloads (MIT), and forms it has not."""
    payloads = (DATA / "csv-payload.txt").read_text("utf-8").splitlines()
    payloads += ["=1+1", "+1", "-1+cmd", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1",
                 "＠1", " =1", "\u00a0=1", "\ufeff=1", "|cmd", "%1"]  # fmt: skip
    audit = make_log()
    for payload in payloads:
        audit.record("a.b", actor=Actor("user", payload), resource=("x", payload))
    stream = io.BytesIO()
    exporter("csv").write(audit.query(), stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue().decode(), newline="")))
    for payload, row in zip(payloads, rows, strict=True):
        for cell in row.values():
            assert not cell.strip(" \u00a0\ufeff").startswith(
                tuple("=+-@\t\r\n＝＋－＠|%")
            )
        assert row["actor_id"] in {payload, f"'{payload}"}
    plain = io.BytesIO()
    exporter("csv", safe=False).write(audit.query(), plain)
    assert b'"=1+1"' in plain.getvalue()


def test_ecs_documents_have_the_fields_that_dashboards_read(audit):
    """The names of elastic/ecs; an ip address is one."""
    first = json.loads(exported(audit, "ecs").splitlines()[0])
    assert first["event"]["action"] == "invoice.approve"
    assert first["event"]["outcome"] == "success"
    assert first["source"] == {"ip": "203.0.113.7"}
    assert first["trace"] == {"id": "t-1"}
    assert first["@timestamp"].endswith("Z")


def test_cloudevents_have_the_required_attributes(audit):
    """CloudEvents 1.0: id, source, specversion, type."""
    rows = [json.loads(line) for line in exported(audit, "cloudevents").splitlines()]
    assert {row["specversion"] for row in rows} == {"1.0"}
    assert len({(row["source"], row["id"]) for row in rows}) == 5
    assert rows[0]["subject"] == "invoice/inv-7"


def test_parquet_is_read_back(audit, tmp_path):
    """Types survive: numbers, times with zone, missing resources."""
    pq = pytest.importorskip("pyarrow.parquet", reason="needs [parquet]")

    assert audit.export("parquet", to=tmp_path / "x.parquet") == 5
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["seq"] for row in rows] == [2, 3, 4, 5, 6]
    assert rows[0]["ts"] == next(audit.query()).time
    assert rows[1]["resource_id"] is None


def test_opentelemetry_gets_log_records(audit):
    """Through the real SDK into its in-memory exporter."""
    sdk = pytest.importorskip("opentelemetry.sdk._logs")
    export = pytest.importorskip("opentelemetry.sdk._logs.export")
    memory_kind = (
        getattr(export, "InMemoryLogRecordExporter", None) or export.InMemoryLogExporter
    )
    memory = memory_kind()
    provider = sdk.LoggerProvider()
    provider.add_log_record_processor(export.SimpleLogRecordProcessor(memory))
    exporter("otel", provider=provider).write(audit.query(), io.BytesIO())
    records = [item.log_record for item in memory.get_finished_logs()]
    provider.shutdown()
    assert [r.event_name for r in records][:2] == ["invoice.approve", "user.login"]
    assert records[0].attributes["enduser.id"] == "u-1"


def test_an_export_that_fails_leaves_no_file(audit, tmp_path):
    """A half-written export looks like a whole one to its reader."""

    class Failing:
        def write(self, events, stream):
            stream.write(b"half")
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        audit.export(Failing(), to=tmp_path / "x")
    assert list(tmp_path.glob("*x*")) == []


def test_an_unknown_format_suggests_the_nearest():
    """And lists what there is."""
    with pytest.raises(UnknownFormat, match="did you mean 'ocsf'"):
        exporter("oscf")
    assert len(names()) == 10


def test_evidence_is_verified_by_its_own_file(make_log, tmp_path, ed25519):
    """Python alone, in another process, without this package."""
    import sys

    signer = ed25519.generate("app.example/audit")
    other = ed25519.generate("app.example/audit")
    audit = make_log(signer=signer)
    audit.record_many({"action": "a.b", "data": {"n": n}} for n in range(20))
    key = str(signer.public)
    assert audit.evidence(tmp_path / "e.zip", keys=[key], action="a.b") == 20
    with zipfile.ZipFile(tmp_path / "e.zip") as bundle:
        bundle.extractall(tmp_path / "e")

    def run(*keys):
        command = [sys.executable, "-I", "-S", str(tmp_path / "e" / "verify.py"), *keys]
        return subprocess.run(command, capture_output=True, check=False)

    assert run(key).returncode == 0, run(key).stderr
    assert b"20 events are in the log app.example/audit of 21 lines" in run(key).stdout
    assert run(str(other.public)).returncode == 1
    events = tmp_path / "e" / "events.jsonl"
    events.write_bytes(events.read_bytes().replace(b'"n":7', b'"n":8'))
    assert run(key).returncode == 1
    events.write_bytes(b"")
    assert run(key).returncode == 1


def asgi_call(app, headers=(), client="10.0.0.9"):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/pay", "client": (client, 1),
        "headers": [(k.encode(), v.encode()) for k, v in headers],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent


def test_the_asgi_middleware_records_before_it_answers(make_log):
    """With Starlette's own types in between; the inner event has the same request."""
    from maestro_audit_logger.web import AuditASGIMiddleware

    audit = make_log()
    seen = []

    async def app(scope, receive, send):
        await audit.arecord("payment.send")
        await send({"type": "http.response.start", "status": 403, "headers": []})
        seen.append([e.action for e in audit.query()])
        await send({"type": "http.response.body", "body": b""})

    wrapped = AuditASGIMiddleware(
        app, audit, actor=lambda scope: Actor.user("u-7"), trusted_proxies=1
    )
    forwarded = [("X-Forwarded-For", "6.6.6.6, 203.0.113.9"), ("X-Request-Id", "r-9")]
    sent = asgi_call(wrapped, forwarded)
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    assert seen == [["payment.send", "http.request"]]
    inner, outer = audit.query()
    assert inner.ctx == outer.ctx == {"request_id": "r-9", "ip": "203.0.113.9"}
    assert (outer.outcome, outer.actor.id) == ("denied", "u-7")


def test_a_request_is_not_answered_when_it_cannot_be_recorded(make_log):
    """Fail closed up to the client."""
    from maestro_audit_logger import AuditUnavailable
    from maestro_audit_logger.testing import FullDisk
    from maestro_audit_logger.web import AuditASGIMiddleware

    disk = FullDisk()
    audit = make_log(files=disk)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    disk.room = 0
    sent = []
    with pytest.raises(AuditUnavailable):
        sent = asgi_call(AuditASGIMiddleware(app, audit))
    disk.room = None
    assert sent == []


def test_a_crashing_application_is_recorded_as_a_failure(make_log):
    """And its exception goes on."""
    from maestro_audit_logger.web import AuditASGIMiddleware

    audit = make_log()

    async def app(scope, receive, send):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        asgi_call(AuditASGIMiddleware(app, audit))
    event = next(audit.query())
    assert (event.outcome, event.data["status"]) == ("failure", 500)
    assert event.actor.type == "anonymous"


def test_the_wsgi_middleware_binds_over_generators(make_log):
    """Checked by wsgiref's validator from both sides."""
    from wsgiref.util import setup_testing_defaults
    from wsgiref.validate import validator

    from maestro_audit_logger.web import AuditWSGIMiddleware

    audit = make_log()

    def app(environ, start_response):
        audit.record("page.view")
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"a"
        yield b"b"

    environ = {
        "REMOTE_ADDR": "10.1.1.1",
        "HTTP_X_FORWARDED_FOR": "6.6.6.6",
        "QUERY_STRING": "",
    }
    setup_testing_defaults(environ)
    wrapped = validator(AuditWSGIMiddleware(validator(app), audit))
    body = wrapped(environ, lambda status, headers, exc_info=None: lambda data: None)
    assert b"".join(body) == b"ab"
    body.close()
    inner, outer = audit.query()
    assert inner.ctx["ip"] == outer.ctx["ip"] == "10.1.1.1"
    assert outer.resource == Resource("path", "/")
