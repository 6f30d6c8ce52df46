"""Two hosts and a hub in network namespaces: a partition, and its end.

Needs root and iproute2. The namespaces have no way out: nothing but the hub and the
two hosts can be reached in them.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from registry_support import wait_until

WORKER = """
import json, sys, threading, time
from maestro_service_registry import RegistryError, ServiceRegistry, SystemClock
url, name, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
clock, lock_out = SystemClock(), threading.Lock()

def say(*words):
    with lock_out:
        print(json.dumps(words), flush=True)

registry = ServiceRegistry.open(url, timeout=1, **options)
registry.register("web", port=1, id=name, ttl=4)
view = registry.service("web")

def look():
    seen = None
    while True:
        now = [i.id for i in view.instances]
        if now != seen:
            say("sees", now)
            seen = now
        time.sleep(0.02)

threading.Thread(target=look, daemon=True).start()
while True:
    try:
        with registry.lock("job", ttl=4) as lock:
            say("got", clock.elapsed(), lock.fence)
            while True:
                before = clock.elapsed()
                fence = lock.guard()
                view.pick()
                say("safe", before, fence)
                time.sleep(0.02)
    except RegistryError as error:
        say("lost", clock.elapsed(), str(error))
        time.sleep(0.05)
"""


def ip(*words):
    done = subprocess.run(
        ["ip", *words], capture_output=True, text=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Net:
    """A hub and the hosts a and b, each in its namespace, by one cable each."""

    def __init__(self):
        self.names = {key: f"mreg{os.getpid()}{key}" for key in ("hub", "a", "b")}
        self.cables = {"a": "10.99.1", "b": "10.99.2"}

    def build(self):
        for name in self.names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for host, net in self.cables.items():
            peer = ["peer", "name", "eth0", "netns", self.names[host]]
            ip(
                "-n",
                self.names["hub"],
                "link",
                "add",
                f"to{host}",
                "type",
                "veth",
                *peer,
            )
            ip(
                "-n",
                self.names["hub"],
                "addr",
                "add",
                f"{net}.1/24",
                "dev",
                f"to{host}",
            )
            ip("-n", self.names["hub"], "link", "set", f"to{host}", "up")
            ip("-n", self.names[host], "addr", "add", f"{net}.2/24", "dev", "eth0")
            ip("-n", self.names[host], "link", "set", "eth0", "up")

    def plug(self, host, state):
        ip("-n", self.names["hub"], "link", "set", f"to{host}", state)

    def run(self, host, *command):
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[host], *command],
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def remove(self):
        for name in self.names.values():
            with contextlib.suppress(OSError):
                ip("netns", "del", name)


class Host:
    """A worker process on a host, and what it said."""

    def __init__(self, net, host, url, options):
        command = [sys.executable, "-c", WORKER, url, host, json.dumps(options)]
        self.process = net.run(host, *command)
        self.said = []
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()

    def _listen(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # cut short by the kill
                self.said.append(json.loads(line))

    def all(self, kind):
        return [words[1:] for words in list(self.said) if words[0] == kind]

    def sees(self):
        found = self.all("sees")
        return found[-1][0] if found else None

    def end(self):
        if self.process.stdout.closed:
            return
        self.process.kill()
        self.thread.join(10)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def net():
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    found = Net()
    try:
        found.build()
    except OSError as error:
        found.remove()
        pytest.skip(f"no network namespaces here: {error}")
    yield found
    found.remove()


@contextlib.contextmanager
def hub(net, kind, tmp_path, require_program):
    """Run a store on the hub; give its URLs for the hosts and what opens it."""
    options = {}
    if kind == "redis":
        command = [require_program("redis-server"), "--save", "", "--port", "6379"]
        command += ["--protected-mode", "no", "--dir", str(tmp_path)]
        ready, scheme, port = "eady to accept", "redis", 6379
    else:
        from maestro_service_registry._server._access import new_token

        token, line = new_token(["admin"])
        (tmp_path / "tokens").write_text(line, encoding="utf-8")
        command = [sys.executable, "-m", "maestro_service_registry"]
        command += ["--url", f"sqlite:///{tmp_path}/r.db", "serve", "--bind"]
        command += ["0.0.0.0:8500", "--token-file", f"{tmp_path}/tokens"]
        ready, scheme, port, options = "registry on", "http", 8500, {"token": token}
    process = net.run("hub", *command)
    try:
        for line in process.stdout:
            if ready in line:
                break
        else:
            raise AssertionError(f"the hub ended with {process.wait(10)}")
        drain = threading.Thread(target=process.stdout.read)
        drain.start()
        yield (
            {host: f"{scheme}://{n}.1:{port}" for host, n in net.cables.items()},
            options,
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)
        drain.join(10)
        process.stdout.close()


@pytest.mark.drill
@pytest.mark.parametrize("kind", ["http", "redis"])
def test_a_partition_moves_the_lock_and_never_shares_it(
    kind, net, tmp_path, require_program
):
    with hub(net, kind, tmp_path, require_program) as (urls, options):
        a = b = None
        try:
            a = Host(net, "a", urls["a"], options)
            wait_until(lambda: len(a.all("safe")) > 3, 40)
            b = Host(net, "b", urls["b"], options)
            wait_until(lambda: b.sees() == ["a", "b"] == a.sees(), 40)
            net.plug("a", "down")
            first = a.all("got")[-1][1]
            wait_until(lambda: b.all("got") and a.all("lost"), 40)
            wait_until(lambda: b.sees() == ["b"], 40)
            second = b.all("got")[-1][1]
            assert second > first
            assert a.sees() == ["a", "b"], "a cut off host picks from what it knew"
            net.plug("a", "up")
            wait_until(lambda: b.sees() == ["a", "b"] == a.sees(), 60)
            b.end()
            wait_until(lambda: a.all("got")[-1][1] > second, 60)
            marks = [w[:2] for h in (a, b) for k in ("got", "safe") for w in h.all(k)]
            fences = [fence for _, fence in sorted(marks)]
            assert fences == sorted(fences), "two held it at once"
        finally:
            for host in (a, b):
                if host is not None:
                    host.end()
