"""Answer DNS questions about services: A and SRV for `<service>.service.consul`.

UDP only, usable instances only, TTL 0, as Consul does: caches must not keep a dead
instance. Unknown names get NXDOMAIN, other domains are refused.
"""

import contextlib
import ipaddress
import random
import socket
import threading
from collections.abc import Sequence
from typing import final

from maestro_service_registry._model import Instance
from maestro_service_registry._registry import ServiceRegistry
from maestro_service_registry.errors import InvalidInput, RegistryError

try:
    from dnslib import AAAA, QTYPE, RCODE, RR, SRV, A, DNSError, DNSRecord
except ImportError as error:
    raise ImportError(
        'DNS answers need dnslib: pip install "maestro-service-registry[server]"'
    ) from error

from ._access import bind_to

__all__ = ["Responder"]

MOST_ANSWERS = 8
PACKET_BYTES = 512  # what every resolver takes over UDP


@final
class Responder:
    """One UDP socket and one thread."""

    def __init__(self, registry: ServiceRegistry, host: str, port: int) -> None:
        self._registry = registry
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.settimeout(0.5)
        try:
            bind_to(self._socket, host, port, "--dns")
        except BaseException:
            self._socket.close()
            raise
        self.port = int(self._socket.getsockname()[1])
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="maestro-registry-dns", daemon=True
        )

    def start(self) -> None:
        """Answer on a thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._closed.set()
        self._thread.join(5)
        self._socket.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                question, sender = self._socket.recvfrom(1024)
            except TimeoutError:
                continue
            with contextlib.suppress(DNSError, OSError, ValueError):
                # Nonsense gets no answer; the next question is not its fault.
                self._socket.sendto(self.answer(question), sender)

    def answer(self, question: bytes) -> bytes:
        """Return the packed answer to a packed question."""
        asked = DNSRecord.parse(question)
        reply = asked.reply(aa=1, ra=0)
        name = str(asked.q.qname).rstrip(".").lower()
        labels = name.split(".")
        if labels[-2:] != ["service", "consul"] or not 3 <= len(labels) <= 4:
            reply.header.rcode = RCODE.REFUSED
            return bytes(reply.pack())
        tags = labels[:1] if len(labels) == 4 else []
        try:
            found = [i for i in self._registry.find(labels[-3], tags=tags) if i.usable]
        except InvalidInput:  # no service can have such a name
            found = []
        except RegistryError:
            reply.header.rcode = RCODE.SERVFAIL
            return bytes(reply.pack())
        if not found:
            reply.header.rcode = RCODE.NXDOMAIN
            return bytes(reply.pack())
        random.shuffle(found)
        count = min(len(found), MOST_ANSWERS)
        packed = _pack(asked, name, labels[-3], found[:count])
        while len(packed) > PACKET_BYTES and count > 1:
            count -= 1
            packed = _pack(asked, name, labels[-3], found[:count])
        return packed


def _pack(
    asked: DNSRecord, name: str, service: str, instances: Sequence[Instance]
) -> bytes:
    """Return the packed answer that names these instances."""
    reply, kind = asked.reply(aa=1, ra=0), QTYPE[asked.q.qtype]
    for number, instance in enumerate(instances):
        target = f"{number}.{service}.node.consul."
        address = _address(target if kind == "SRV" else name, instance.host)
        if kind == "SRV":
            data = SRV(1, instance.weight, instance.port, target)
            reply.add_answer(RR(name, QTYPE.SRV, rdata=data, ttl=0))
            if address is not None:
                reply.add_ar(address)
        elif address is not None and QTYPE[address.rtype] == kind:
            reply.add_answer(address)
    return bytes(reply.pack())


def _address(name: str, host: str) -> RR | None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:  # a host name: a resolver's business
        return None
    if ip.version == 6:
        return RR(name, QTYPE.AAAA, rdata=AAAA(host), ttl=0)
    return RR(name, QTYPE.A, rdata=A(host), ttl=0)
