"""Crashes: kill -9, full disks, failing syncs, forks. Real processes where it counts."""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from maestro_audit_logger import Actor, AuditLogger, AuditUnavailable, verify_log
from maestro_audit_logger._commit import Committer
from maestro_audit_logger._files import Files

WRITER = """
import os, signal, sys
from maestro_audit_logger import Actor, AuditLogger
from maestro_audit_logger._files import Files
class Piecemeal(Files):
    # write(2) may take less than asked: then a kill falls into the middle of a line.
    left = int(sys.argv[4])
    def write(self, fd, data):
        count = super().write(fd, data[:100])
        if bytes(data[:7]) == b'{"seq":':
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return count
audit = AuditLogger(sys.argv[1], durability=sys.argv[3], segment_bytes=200_000,
                    checkpoint_every=300, actor=Actor.user("w" + sys.argv[2]), files=Piecemeal())
n = 0
while True:
    # Every third batch is large, so that a kill often falls into its write.
    size = 5 if n % 3 else 100
    events = [{"action": "a.b", "data": {"n": n + k, "pad": "x" * (n % 1700)}} for k in range(size)]
    receipts = audit.record_many(events) if n % 2 or size > 5 else [audit.record(**events[0])]
    for r in receipts:
        os.write(1, f"{r.seq} {r.leaf_hash}\\n".encode())
    n += 5
"""


def spawn(folder, name, durability, writes=0):
    """Start a writer; with `writes` it kills itself in the midst of that one."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(name), durability, str(writes)],
        stdout=subprocess.PIPE,
    )


def kill_round(folder, writers, durability, rng, writes):
    """Start writers, kill them at a random moment, return what they acknowledged.

    With `writes` the first of them dies there by itself, before the others.
    """
    processes = [
        spawn(folder, n, durability, 0 if n else writes) for n in range(writers)
    ]
    chunks = {}

    def drain(process):
        chunks[process.pid] = process.stdout.read()

    threads = [threading.Thread(target=drain, args=(p,)) for p in processes]
    for thread in threads:
        thread.start()
    size = sum(p.stat().st_size for p in folder.glob("0*"))
    # Of several writers one is then past its first batch, which it acknowledges.
    size += 20_000 if writers == 1 else 100_000 * writers
    limit = time.monotonic() + 60
    try:
        if writes:
            processes[0].wait(60)
        else:
            while sum(p.stat().st_size for p in folder.glob("0*")) <= size:
                assert time.monotonic() < limit, "the writers never started"
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.08))
    finally:
        for process in processes:
            process.kill()
        for process, thread in zip(processes, threads, strict=True):
            process.wait()
            thread.join()
            process.stdout.close()
    whole = [c[: c.rfind(b"\n") + 1].decode().split("\n")[:-1] for c in chunks.values()]
    return [line.split() for lines in whole for line in lines]


def drill(folder, kills, writers, durability, seed):
    """Kill writers; return how many records were acknowledged, and torn tails met."""
    rng = random.Random(seed)
    with AuditLogger(folder, origin="app.example/audit", durability="os"):
        pass
    acknowledged = {}
    for number in range(-(-kills // writers)):
        writes = rng.randrange(5, 40) if number % 6 == 0 else 0
        for seq, leaf in kill_round(folder, writers, durability, rng, writes):
            assert seq not in acknowledged, "one number, two records"
            acknowledged[seq] = leaf
        with AuditLogger(folder, durability="os", actor=Actor.user("after")) as audit:
            audit.record("a.after")
    report = verify_log(folder, full=True)
    assert report.status != "tampered", report.explain()
    torn = sum(f.kind == "recovered" for f in report.findings)
    from maestro_audit_logger._merkle import leaf_hash
    from maestro_audit_logger._segments import list_segments

    stored = {}
    for segment in list_segments(folder):
        for at, (line, _) in enumerate(segment.lines()):
            stored[str(segment.first + at)] = leaf_hash(line).hex()
    lost = [seq for seq, leaf in acknowledged.items() if stored.get(seq) != leaf]
    assert lost == []
    assert acknowledged
    return len(acknowledged), torn


@pytest.mark.parametrize("writers", [1, 4])
def test_a_killed_writer_loses_nothing_acknowledged(folder, writers):
    """kill -9 at random moments; chain whole, torn tails explained."""
    _, torn = drill(folder, 8, writers, durability="commit", seed=writers)
    assert torn > 0


@pytest.mark.drill
@pytest.mark.parametrize(
    ("writers", "durability"), [(1, "os"), (1, "commit"), (4, "commit"), (4, "os")]
)
def test_a_hundred_kills_lose_nothing(folder, writers, durability):
    """The same, a hundred times: print how many records and torn tails it met."""
    total, torn = drill(folder, 100, writers, durability, seed=100 + writers)
    assert torn >= 3, "hardly a kill fell into a write"
    print(f"{writers} writers, {durability}: {total} acknowledged, {torn} torn")


class Flaky(Files):
    """Files that fail on demand, in the ways that disks do."""

    def __init__(self):
        self.room = None
        self.sync_error = None
        self.short = 0
        self.synced = 0

    def write(self, fd, data):
        if self.room is not None:
            if self.room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[: self.room]
        if self.short:
            data = data[: self.short]
        count = super().write(fd, data)
        if self.room is not None:
            self.room -= count
        return count

    def sync(self, fd):
        if self.sync_error:
            raise self.sync_error
        self.synced += 1
        super().sync(fd)


def events(audit):
    return [e.data["n"] for e in audit.query(action="a.b")]


def test_short_writes_are_finished(make_log):
    """write(2) may take less than asked."""
    files = Flaky()
    audit = make_log(files=files)
    files.short = 7
    audit.record("a.b", data={"n": 1})
    assert audit.verify(full=True).ok


@pytest.mark.parametrize("room", [0, 1, 150, 230, 231, 232, 500])
def test_a_full_disk_refuses_exactly_what_it_did_not_store(make_log, room):
    """Acknowledged is stored, refused is not, wherever the line is cut."""
    files = Flaky()
    audit = make_log(files=files)
    audit.record("a.b", data={"n": 0})
    files.room = room
    acknowledged, reasons = [0], []
    for n in range(1, 6):
        try:
            audit.record("a.b", data={"n": n})
            acknowledged.append(n)
        except AuditUnavailable as error:
            reasons.append(error.reason)
    files.room = None
    assert all("No space left" in reason for reason in reasons)
    audit.record("a.b", data={"n": 9})
    assert events(audit) == [*acknowledged, 9]
    assert audit.verify(full=True).status in {"ok", "damaged"}


def test_a_batch_on_a_full_disk_keeps_its_whole_lines(make_log):
    """The first lines are stored and not reported as lost."""
    files = Flaky()
    audit = make_log(files=files, on_failure="drop")
    audit.record("a.b", data={"n": -1})
    files.room = 600
    receipts = audit.record_many({"action": "a.b", "data": {"n": n}} for n in range(5))
    files.room = None
    fates = [r.fate for r in receipts]
    assert 0 < fates.count("stored") < 5
    audit.record("a.b", data={"n": 9})
    assert events(audit) == [-1, *range(fates.count("stored")), 9]
    gaps = list(audit.query(action="audit.gap"))
    assert gaps[0].data["lost"] == fates.count("dropped")
    assert audit.stats["lost"] == fates.count("dropped")


def test_a_real_full_disk(folder, tmp_path):
    """A file size limit stands in for the quota: EFBIG from the kernel itself."""
    program = f"""
import resource, signal, sys
from maestro_audit_logger import Actor, AuditLogger, AuditUnavailable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
audit = AuditLogger({str(folder)!r}, origin="x", actor=Actor.user("u"))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
kept = []
for n in range(40):
    try:
        audit.record("a.b", data={{"n": n}})
        kept.append(n)
    except AuditUnavailable:
        pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
audit.record("a.b", data={{"n": 99}})
assert [e.data["n"] for e in audit.query(action="a.b")] == [*kept, 99], kept
assert 0 < len(kept) < 40
audit.close()
print(audit.verify(full=True).status)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False
    )
    assert done.stdout.strip() in {b"ok", b"damaged"}, done.stderr


def test_a_failed_sync_is_never_retried(make_log, folder):
    """The caller is told that it is uncertain; the next record has a new segment."""
    files = Flaky()
    audit = make_log(files=files, durability="commit")
    audit.record("a.b", data={"n": 1})
    files.sync_error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(AuditUnavailable) as caught:
        audit.record("a.b", data={"n": 2})
    assert caught.value.uncertain
    files.sync_error = None
    audit.record("a.b", data={"n": 3})
    assert len(list(folder.glob("0*.jsonl"))) == 2
    assert events(audit) == [1, 2, 3]
    assert audit.verify(full=True).ok


def test_spilled_events_are_kept_elsewhere_and_the_log_says_so(make_log, tmp_path):
    """A second folder takes them, synced; the gap record has their digest, also
    after it could not be written itself."""
    files = Flaky()
    audit = make_log(files=files, on_failure="spill", spill_to=tmp_path / "spill")
    files.room = 0
    for n in (1, 2, 3):
        receipt = audit.record("a.b", data={"n": n})
        assert (receipt.fate, receipt.seq) == ("spilled", 0)
    files.room = None
    audit.record("a.b", data={"n": 4})
    (path,) = (tmp_path / "spill").iterdir()
    lines = path.read_text("utf-8").splitlines()
    assert [json.loads(line)["data"]["n"] for line in lines] == [1, 2, 3]
    gap = next(audit.query(action="audit.gap"))
    assert gap.data["spilled"] == 3
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert gap.data["spill_files"] == {path.name: digest}
    assert audit.verify().ok


def test_threads_spill_whole_lines_in_the_order_of_their_digest(make_log, tmp_path):
    """And a spilled line that did not fit leaves its file to those before it."""
    files = Flaky()
    audit = make_log(files=files, on_failure="spill", spill_to=tmp_path / "spill")
    files.room = 0

    def work():
        for _ in range(20):
            audit.record("a.b")

    def spill():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    spill()
    (first,) = (tmp_path / "spill").iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    resource.setrlimit(resource.RLIMIT_FSIZE, (first.stat().st_size + 9, hard))
    try:
        with pytest.raises(AuditUnavailable, match="and the spill failed"):
            audit.record("a.b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    spill()
    files.room = None
    audit.record("a.b")
    gap = next(audit.query(action="audit.gap"))
    assert gap.data["spilled"] == 160
    assert gap.data["spill_files"][first.name] == digest
    (second,) = set((tmp_path / "spill").iterdir()) - {first}
    digest = hashlib.sha256(second.read_bytes()).hexdigest()
    assert gap.data["spill_files"][second.name] == digest
    lines = second.read_text("utf-8").splitlines()
    assert len([json.loads(line) for line in lines]) == 80


def test_an_action_does_not_run_without_its_intent(make_log):
    """Fail closed: no record, no deed."""
    files = Flaky()
    audit = make_log(files=files)
    audit.record("a.b")
    files.room = 0
    ran = []
    with pytest.raises(AuditUnavailable), audit.action("user.delete"):
        ran.append(1)
    files.room = None
    assert ran == []


def test_one_call_may_have_its_own_policy(make_log):
    """A page view may be dropped where a payment may not."""
    files = Flaky()
    audit = make_log(files=files)
    audit.record("a.b")
    files.room = 0
    assert audit.record("page.view", on_failure="drop").fate == "dropped"
    with pytest.raises(AuditUnavailable):
        audit.record("payment.send")
    files.room = None


def test_a_read_only_folder_is_refused(public_folder, as_nobody):
    """At once, and by its name; as a user whom permissions hold."""

    def work():
        with pytest.raises(AuditUnavailable, match="Permission denied"):
            AuditLogger(public_folder / "audit", origin="x")

    public_folder.chmod(0o555)
    assert as_nobody(work) == 0


def test_the_names_of_a_new_log_are_synced_before_it_is_one(tmp_path):
    """A power cut would take back the whole folder, and what was acknowledged."""
    folder, synced = tmp_path / "srv" / "app" / "audit", []

    class Noting(Files):
        def sync_folder(self, path):
            if not (folder / "log.json").exists():
                synced.append(path)
            super().sync_folder(path)

    with AuditLogger(folder, origin="x", actor=Actor.user("u"), files=Noting()):
        assert set(synced) >= {tmp_path, tmp_path / "srv", tmp_path / "srv" / "app"}


def test_a_log_is_made_where_its_folder_may_be_made_but_not_listed(
    public_folder, as_nobody
):
    """Its parent cannot be opened to sync it."""
    public_folder.chmod(0o733)

    def work():
        with AuditLogger(public_folder / "audit", origin="x", actor=Actor.user("u")):
            pass

    assert as_nobody(work) == 0


def test_a_permission_lost_while_writing_is_an_error(public_folder, as_nobody):
    """The next segment cannot be made: refused, told, and nothing is lost."""
    public_folder.chmod(0o777)
    path = public_folder / "audit"

    def work():
        audit = AuditLogger(path, origin="x", actor=Actor.user("u"), segment_bytes=2000)
        kept = []
        path.chmod(0o555)
        try:
            for n in range(20):
                try:
                    audit.record("a.b", data={"n": n})
                    kept.append(n)
                except AuditUnavailable as error:
                    assert "Permission denied" in error.reason
        finally:
            path.chmod(0o755)
        assert 0 < len(kept) < 20
        audit.record("a.b", data={"n": 99})
        assert events(audit) == [*kept, 99]
        audit.close()
        assert verify_log(path, full=True).ok

    assert as_nobody(work) == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KB of its own; needs root."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this system does not let root mount a disk")
    yield path
    subprocess.run([shutil.which("umount"), str(path)], check=True)


@pytest.mark.parametrize("batch", [1, 7])
def test_a_full_file_system(small_disk, batch):
    """ENOSPC from the kernel, in the middle of a line; then there is room again."""
    (small_disk / "ballast").write_bytes(b"x" * 100_000)
    audit = AuditLogger(
        small_disk / "audit", origin="x", actor=Actor.user("u"), checkpoint_every=50
    )
    kept, refused = [], 0
    for n in range(0, 1400, batch):
        some = [{"action": "a.b", "data": {"n": n + k}} for k in range(batch)]
        before = audit.stats["seq"]
        try:
            audit.record_many(some) if batch > 1 else audit.record(**some[0])
            kept += [e["data"]["n"] for e in some]
        except AuditUnavailable:
            refused += 1
            kept += [e["data"]["n"] for e in some][: audit.stats["seq"] - before]
    (small_disk / "ballast").unlink()
    audit.record("a.b", data={"n": -1})
    stored = events(audit)
    audit.close()
    assert refused > 0
    assert stored == [*kept, -1]
    report = verify_log(small_disk / "audit", full=True)
    assert report.status in {"ok", "damaged"}, report.explain()
    assert report.uncovered == 0


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    """Also for root: a file stands where the folder should be."""
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(AuditUnavailable):
        AuditLogger(tmp_path / "file" / "audit", origin="x")


def test_a_fork_in_the_midst_of_writing_leaves_both_able_to_write(make_log):
    """Threads hold every lock while the process forks; the child starts afresh."""
    audit = make_log(durability="commit")
    stop = threading.Event()

    def work():
        while not stop.is_set():
            audit.record("a.parent")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    children = []
    try:
        for number in range(5):
            pid = os.fork()
            if pid == 0:
                try:
                    signal.alarm(20)
                    for n in range(10):
                        audit.record("a.child", data={"child": number, "n": n})
                    os._exit(0)
                except BaseException:
                    os._exit(1)
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 5
    assert len(list(audit.query(action="a.child"))) == 50
    assert audit.verify(full=True).ok


def test_a_signal_handler_that_records_is_refused_not_deadlocked(make_log):
    """It runs in the middle of this thread's own write."""
    caught = []
    armed = []

    class Interrupting(Files):
        def write(self, fd, data):
            if armed and not caught:
                caught.append(None)
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.01)  # the handler runs here
            return super().write(fd, data)

    audit = make_log(files=Interrupting())

    def handle(*_):
        try:
            audit.record("a.signal")
        except AuditUnavailable as error:
            caught.append(error)

    before = signal.signal(signal.SIGUSR1, handle)
    armed.append(True)
    try:
        audit.record("a.b")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert "signal handler" in str(caught[1:])
    assert audit.verify().ok


def test_every_prefix_of_the_last_write_recovers(make_log, folder):
    """Cut the file at each byte of the last line, or fill it with zeros as a power
    cut does, or kill the next writer while it explains: it opens, explains the
    damage, and goes on."""
    with make_log() as audit:
        audit.record("a.b", data={"n": 1})
        audit.record("a.b", data={"n": {"deep": {"er": 2}}})
    for name in ("checkpoint", "checkpoints"):
        (folder / name).unlink()
    path = folder / f"{1:020d}.jsonl"
    whole = path.read_bytes()
    start = whole.rfind(b"\n", 0, -1) + 1
    for cut in range(start, len(whole) - 1):
        half = b'\n{"seq":' if cut > start else b"{"
        for rest in (b"", b"\0" * (len(whole) - cut), b"\n"[: cut - start], half):
            path.write_bytes(whole[:cut] + rest)
            for name in ("checkpoint", "checkpoints"):
                (folder / name).unlink(missing_ok=True)
            with make_log() as audit:
                audit.record("a.b", data={"n": 3})
            assert path.read_bytes().startswith(whole[:cut]), "never truncated"
            clean = cut == start and not rest
            for full in (False, True):
                report = verify_log(folder, full=full)
                assert report.status == ("ok" if clean else "damaged"), (
                    whole[start:cut] + rest,
                    report.explain(),
                )
            assert events(audit)[:1] == [1]
            assert events(audit)[-1] == 3


def braces(path):
    """Return the places behind the inner braces of the line before the last."""
    data = path.read_bytes()
    end = data.rfind(b"\n", 0, -1)
    start = data.rfind(b"\n", 0, end) + 1
    return [at + 1 for at in range(start, end - 1) if data[at] == ord("}")]


@pytest.mark.parametrize("crashes", [2, 3])
def test_crash_after_crash_at_an_inner_brace_is_explained_as_one(
    make_log, folder, crashes
):
    """Each writer dies while it explains the lines of those before it. All of them
    look whole, and continue the chain."""
    with make_log() as audit:
        audit.record("a.b", data={"n": {"deep": {"er": 2}}})
        audit.record("a.b", data={"n": 3})
    path = folder / f"{1:020d}.jsonl"
    rng = random.Random(crashes)
    for cut in braces(path):
        start = path.read_bytes()
        for crash in range(crashes):
            place = cut if crash == 0 else rng.choice(braces(path))
            path.write_bytes(path.read_bytes()[:place])
            for name in ("checkpoint", "checkpoints"):
                (folder / name).unlink(missing_ok=True)
            with make_log() as audit:
                audit.record("a.b", data={"n": 4})
        for full in (False, True):
            report = verify_log(folder, full=full)
            assert report.status == "damaged", (cut, report.explain())
        assert [(f.kind, f.seq) for f in report.findings] == [("recovered", 2)]
        assert events(audit) == [4]
        path.write_bytes(start)


def test_a_damaged_region_of_several_lines_is_explained_as_one(make_log, folder):
    """Zeroed pages can hide line ends; lines after them are part of the damage."""
    with make_log() as audit:
        for n in range(9):
            audit.record("a.b", data={"n": n})
    for name in ("checkpoint", "checkpoints"):
        (folder / name).unlink()
    path = folder / f"{1:020d}.jsonl"
    whole = bytearray(path.read_bytes())
    ends = [at for at, byte in enumerate(whole) if byte == 10]
    whole[ends[4] + 30 : ends[6] + 30] = bytes(ends[6] - ends[4])
    path.write_bytes(bytes(whole))
    assert verify_log(folder).status == "tampered"
    with make_log() as audit:
        audit.record("a.b", data={"n": 99})
    report = verify_log(folder)
    assert report.status == "damaged", report.explain()
    assert [f.seq for f in report.findings] == [6]


def test_a_limit_on_open_files_is_an_error_and_not_a_loss(make_log):
    """EMFILE refuses the record; with room again it goes on."""
    audit = make_log(segment_bytes=1500)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    audit.record("a.b", data={"n": 0})
    used = os.dup(0)
    os.close(used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    stored = [0]
    try:
        for n in range(1, 20):
            try:
                audit.record("a.b", data={"n": n})
                stored.append(n)
            except AuditUnavailable:
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    audit.record("a.b", data={"n": 99})
    assert events(audit) == [*stored, 99]
    assert audit.verify(full=True).ok


class Interrupted(BaseException):
    """Raised by a signal handler, as KeyboardInterrupt is."""


def interrupt_often(work, times, rng):
    """Run `work` again and again, interrupted at random moments; return the count.

    Every other time a second signal follows on the heels of the first.
    """
    hits = left = 0

    def strike(*_):
        nonlocal left
        if left:
            left -= 1
            if left:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 5e-5))
            raise Interrupted

    before = signal.signal(signal.SIGALRM, strike)
    try:
        while hits < times:
            try:
                try:
                    wanted = left = hits % 2 + 1
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 4e-4))
                    while left == wanted:  # a finalizer may swallow a strike
                        work()
                finally:
                    left = 0  # from here on none strikes
            except Interrupted:
                hits += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return hits


def struck(work, moment, number):
    """Run `work`; at its n-th call, or return from C, so many signals come at once.

    Those are the moments at which CPython looks for signals: it raises for the
    first, and for the next one at the first call of a `finally`.
    """
    strikes, seen = {signal.SIGUSR1, signal.SIGUSR2}, 0

    def strike(*_):
        raise Interrupted

    def watch(frame, event, _):
        nonlocal seen
        name = frame.f_code.co_filename
        if event in {"call", "c_return"} and (
            "maestro" in name or "contextlib" in name
        ):
            seen += 1
            if seen == moment:
                sys.setprofile(None)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, strikes)

    before = {s: signal.signal(s, strike) for s in strikes}
    signal.pthread_sigmask(signal.SIG_BLOCK, strikes)
    for one in sorted(strikes)[:number]:
        signal.pthread_kill(threading.get_ident(), one)
    try:
        try:
            sys.setprofile(watch)
            work()
        finally:
            sys.setprofile(None)
            for one in strikes:
                signal.signal(one, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, strikes)
            for one in strikes:
                signal.signal(one, before[one])
    except Interrupted:
        pass
    return seen >= moment


# Between open() and its `with` an interrupt leaves the closing to the collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize(
    ("many", "every", "step"), [(False, 9999, 1), (True, 9999, 1), (False, 1, 11)]
)
def test_signals_at_each_moment_leave_the_log_to_other_processes(
    make_log, folder, monkeypatch, signals, many, every, step
):
    """The folder's lock is free at once, although this process lives on."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    audit = make_log(checkpoint_every=every)
    kept = []

    def work():
        if many:
            kept.extend(audit.record_many([{"action": "a.b"}] * 2))
        else:
            kept.append(audit.record("a.b"))

    fd = os.open(folder / "lock", os.O_RDONLY)
    try:
        for moment in itertools.count(1, step):
            if not struck(work, moment, signals):
                break
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises when it is taken
            fcntl.flock(fd, fcntl.LOCK_UN)
            work()
    finally:
        os.close(fd)
    assert moment > 20
    report = audit.verify(full=True)
    assert report.ok, report.explain()
    stored = {e.seq: e.leaf_hash for e in audit.query()}
    assert [r for r in kept if stored.get(r.seq) != r.leaf_hash] == []


def join_a_leader(audit):
    """Start a leader that waits for its turn, and a follower; return what they got."""
    committer = audit._committer
    got = {}

    def work(name):
        try:
            got[name] = audit.record("a.b", data={"by": name})
        except (AuditUnavailable, Interrupted) as error:
            got[name] = error

    threads = [threading.Thread(target=work, args=(n,)) for n in ("leader", "follower")]
    with committer._turn:
        for number, thread in enumerate(threads, 1):
            thread.start()
            wait_for(lambda n=number: enrolled(committer) == n)
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return got


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def enrolled(committer):
    return len(committer._open.bodies) if committer._open is not None else 0


def test_a_leader_interrupted_while_it_wakes_leaves_nobody_waiting(
    make_log, monkeypatch
):
    """The record of the follower is stored, and it hears so."""
    audit = make_log(durability="os")

    release, struck = Committer._release, []

    def cut(self, batch):
        if len(struck) < 2:  # in the try, and again in its finally
            struck.append(batch)
            raise Interrupted
        release(self, batch)

    monkeypatch.setattr(Committer, "_release", cut)
    got = join_a_leader(audit)
    assert isinstance(got["leader"], Interrupted)
    assert [e.leaf_hash for e in audit.query()][-1] == got["follower"].leaf_hash
    assert audit.record("a.b").seq == got["follower"].seq + 1
    assert audit.verify(full=True).ok


@pytest.mark.parametrize("twice", [False, True])
def test_a_leader_interrupted_before_it_leads_is_replaced(make_log, monkeypatch, twice):
    """The follower writes the batch itself: nothing was begun. The second time the
    leader is struck it has not even shut the batch, nor woken anybody."""
    audit = make_log(durability="os")
    lead, shut, struck = Committer._lead, Committer._shut, []

    def cut_lead(self, batch):
        if not struck:
            struck.append("lead")
            with self._turn:
                raise Interrupted
        lead(self, batch)

    def cut_shut(self, batch):
        if twice and len(struck) == 1:
            struck.append("shut")
            raise Interrupted
        shut(self, batch)

    monkeypatch.setattr(Committer, "_lead", cut_lead)
    monkeypatch.setattr(Committer, "_shut", cut_shut)
    got = join_a_leader(audit)
    assert isinstance(got["leader"], Interrupted)
    stored = {e.seq: e.leaf_hash for e in audit.query()}
    assert stored[got["follower"].seq] == got["follower"].leaf_hash
    assert audit.record("a.b").seq == got["follower"].seq + 1
    assert audit.verify(full=True).ok


def test_a_leader_interrupted_while_it_writes_leaves_the_batch_uncertain(
    make_log, monkeypatch
):
    """Nobody can tell what is stored, so nobody is told that it is."""
    audit = make_log(durability="os")
    run, cut = Committer._run, []

    def cut_run(self, batch):
        if not cut:
            cut.append(batch)
            raise Interrupted
        run(self, batch)

    monkeypatch.setattr(Committer, "_run", cut_run)
    got = join_a_leader(audit)
    assert isinstance(got["leader"], Interrupted)
    assert got["follower"].uncertain
    audit.record("a.b")
    assert audit.verify(full=True).ok


# Between open() and its `with` an interrupt leaves the closing to the collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("others", [0, 3])
def test_an_exception_at_any_moment_leaves_a_sound_log(make_log, others, monkeypatch):
    """No lock stays taken, no number is used twice, nothing acknowledged is lost."""
    # That of pytest is Python code: a strike in it would fail the test.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    audit = make_log(checkpoint_every=64)
    stop = threading.Event()
    receipts = []

    def work():
        receipts.append(audit.record("a.b"))

    def keep_working():
        while not stop.is_set():
            # The interrupted thread may have written for this one.
            with contextlib.suppress(AuditUnavailable):
                work()

    threads = [threading.Thread(target=keep_working) for _ in range(others)]
    for thread in threads:
        thread.start()
    try:
        interrupt_often(work, 400, random.Random(others))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    work()
    report = audit.verify(full=True)
    assert report.ok, report.explain()
    stored = {e.seq: e.leaf_hash for e in audit.query()}
    assert [r for r in receipts if stored.get(r.seq) != r.leaf_hash] == []
