"""Who runs where: a table in SQLite. A dead process counts as gone."""

import os
import random
import sqlite3
from contextlib import contextmanager


class NoInstances(Exception):
    pass


class Instance:
    def __init__(self, host, port):
        self.host, self.port = host, port

    def url(self, path="/"):
        return f"http://{self.host}:{self.port}/{path.lstrip('/')}"


class Service:
    def __init__(self, registry, name):
        self.registry, self.name = registry, name

    def pick(self):
        found = self.registry.find(self.name)
        if not found:
            raise NoInstances(f"no instance of {self.name!r}")
        return random.choice(found)

    @contextmanager
    def call(self):
        yield self.pick()


class Registration:
    def __init__(self, registry, port):
        self.registry, self.port = registry, port

    def close(self):
        with self.registry.connect() as db:
            db.execute(
                "DELETE FROM service WHERE port = ? AND pid = ?", (self.port, os.getpid())
            )


class ServiceRegistry:
    def __init__(self, path):
        self.path = path
        with self.connect() as db:
            db.execute("CREATE TABLE IF NOT EXISTS service (name, host, port, pid)")

    @classmethod
    def open(cls, url):
        return cls(url.removeprefix("sqlite:///"))

    @contextmanager
    def connect(self):
        db = sqlite3.connect(self.path, isolation_level=None, timeout=10)
        try:
            yield db
        finally:
            db.close()

    def register(self, name, *, port, host="127.0.0.1"):
        with self.connect() as db:
            db.execute("INSERT INTO service VALUES (?, ?, ?, ?)", (name, host, port, os.getpid()))
        return Registration(self, port)

    def find(self, name):
        found = []
        with self.connect() as db:
            rows = db.execute("SELECT host, port, pid FROM service WHERE name = ?", (name,))
            for host, port, pid in rows:
                try:
                    os.kill(pid, 0)
                    found.append(Instance(host, port))
                except ProcessLookupError:
                    pass
        return tuple(found)

    def service(self, name):
        return Service(self, name)

    def close(self):
        pass
