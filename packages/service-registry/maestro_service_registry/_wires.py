"""Connections to a store's server: kept between requests, taken by one thread at a time.

`close` may come at any moment: whoever waits for an answer wakes up and closes what it
uses, and a connection that is just being made is closed as well. After a fork the child
makes its own.
"""

import http.client
import os
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from ._fork import hold_across_fork
from .errors import StoreUnavailable

__all__ = ["Answer", "Wire", "Wires"]

_CLOSED: Final = "the store is closed"
_PARENTS: Final[list["Wire"]] = []  # in use by its threads when this child was forked


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said, and the epoch of the connection that it said it on."""

    status: int
    headers: http.client.HTTPMessage
    text: bytes
    epoch: int


@dataclass(frozen=True, slots=True, eq=False)
class Wire:
    """One connection; `sock` is kept since http.client lets go of it at the end."""

    connection: http.client.HTTPConnection
    sock: socket.socket
    epoch: int


@final
class Wires:
    """All connections of one store.

    `epoch` rises whenever a connection broke: the server behind the next one may be
    another, or the same with an older state. One that was broken on purpose, by `close`
    or at the end of its time, does not count.
    """

    def __init__(
        self,
        server: str,
        host: str,
        port: int | None,
        *,
        timeout: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._server = f"{server} at {host}:{port}"
        self._host, self._port = host, port
        self._timeout, self._tls = timeout, tls
        self.epoch = 0
        self._lock = threading.RLock()  # guards all below; a signal may call `close`
        hold_across_fork(self, self._lock)
        self._idle: list[Wire] = []
        self._busy: set[Wire] = set()
        self._pid = os.getpid()
        self._closed = False

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str], wait: float = 0.0
    ) -> Answer:
        """Send one request and return the answer.

        Args:
            path: with a slash.
            body: the request's content.
            headers: of the request.
            wait: seconds that the server takes on purpose, on top of the time-out.

        Raises:
            StoreUnavailable: it may have been delivered all the same.
        """
        request = (path, body, dict(headers), wait + self._timeout)
        wire = self._borrow()
        if wire is not None:
            try:
                return self._exchange(wire, *request, kept=True)
            except _Stale:
                pass  # the server closed it while nobody used it: nothing was done
        return self._exchange(self.connect(), *request, kept=False)

    def connect(self) -> Wire:
        """Make a connection; whoever takes it gives it to `drop` in the end."""
        epoch = self.epoch
        if self._closed:
            raise self.unavailable(_CLOSED)
        made = self._new()
        try:
            made.connect()
        except BaseException as error:
            made.close()
            if not isinstance(error, OSError):
                raise
            self.broke()
            raise self.unavailable(error) from error
        wire = Wire(made, made.sock, epoch)
        if not self._admit(wire):
            made.close()
            raise self.unavailable(_CLOSED)
        return wire

    def drop(self, wire: Wire) -> None:
        """Close a connection that is not wanted any more."""
        with self._lock:
            self._busy.discard(wire)
        wire.connection.close()

    def broke(self) -> None:
        """Note that a connection broke; the kept ones are not trusted any more."""
        with self._lock:
            self.epoch += 1
            idle, self._idle = self._idle, []
        for wire in idle:
            wire.connection.close()

    def close(self) -> None:
        """Close every connection and wake whoever waits."""
        with self._lock:
            self._disown()
            self._closed = True
            idle, self._idle = self._idle, []
            for wire in self._busy:
                try:  # its user wakes up and closes it; SSLSocket's own way would not
                    socket.socket.shutdown(wire.sock, socket.SHUT_RDWR)
                except OSError:
                    continue
        for wire in idle:
            wire.connection.close()

    def unavailable(self, error: object) -> StoreUnavailable:
        """Return what to raise for an error of the network."""
        return StoreUnavailable(_CLOSED if self._closed else f"{self._server}: {error}")

    def _admit(self, wire: Wire) -> bool:
        """Count a new connection in, unless the store was closed meanwhile."""
        with self._lock:
            self._disown()
            if not self._closed:
                self._busy.add(wire)
            return not self._closed

    def _borrow(self) -> Wire | None:
        with self._lock:
            self._disown()
            if self._closed or not self._idle:
                return None
            wire = self._idle.pop()
            self._busy.add(wire)
            return wire

    def _exchange(
        self,
        wire: Wire,
        path: str,
        body: bytes,
        headers: dict[str, str],
        timeout: float,
        *,
        kept: bool,
    ) -> Answer:
        sent = False
        try:
            wire.sock.settimeout(timeout)
            wire.connection.request("POST", path, body, headers)
            sent = True
            response = wire.connection.getresponse()
            text = response.read()
        except BaseException as error:
            self.drop(wire)
            if not isinstance(error, OSError | http.client.HTTPException):
                raise
            self.broke()
            unread = not sent and not isinstance(error, TimeoutError)
            if kept and (unread or isinstance(error, http.client.RemoteDisconnected)):
                raise _Stale from error
            raise self.unavailable(error) from error
        self._give_back(wire)
        return Answer(response.status, response.headers, text, wire.epoch)

    def _give_back(self, wire: Wire) -> None:
        with self._lock:
            self._busy.discard(wire)
            # http.client has closed it already when the server asked for that.
            whole = wire.connection.sock is not None and wire.epoch == self.epoch
            if whole and not self._closed:
                self._idle.append(wire)
                return
        wire.connection.close()

    def _disown(self) -> None:
        """Leave to the parent what came through a fork."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        for wire in self._idle:
            wire.connection.close()  # this process's copy: the parent's stays open
        _PARENTS.extend(self._busy)
        self._idle, self._busy = [], set()

    def _new(self) -> http.client.HTTPConnection:
        host, port, timeout = self._host, self._port, self._timeout
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        return http.client.HTTPSConnection(
            host, port, timeout=timeout, context=self._tls
        )


class _Stale(Exception):
    """The server had closed the connection before it read the request."""
