"""Wrong arguments: refused when they are given, with what was probably meant."""

import asyncio
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from maestro_service_registry import (
    AsyncServiceRegistry,
    Call,
    Ejection,
    Eviction,
    Http,
    Instance,
    InvalidInput,
    NoInstances,
    NotReady,
    Rules,
    ServiceRegistry,
    StoreMissing,
    StoreUnavailable,
    Tcp,
    Timing,
    UnsafeStore,
    open_store,
)
from maestro_service_registry._store import Put, shown

NAME = "expected a list of texts such as ['billing'], got 'billing'"
FUTURE = 4e9


@pytest.mark.parametrize(
    "use",
    [
        lambda r: r.register("web", port=1, tags="billing"),
        lambda r: r.find("web", tags="billing"),
        lambda r: r.service("web", tags="billing"),
        lambda r: r.wait_ready("billing", timeout=0),
        lambda r: r.claim("billing", by="a", reason="b", until=FUTURE),
        lambda r: r.freeze("x", 1, 2, reason="y", allow="billing"),
        lambda r: r.graph().order("billing"),
        lambda r: r.graph().closure("billing"),
        lambda r: announce(r, consumers="billing"),
        lambda r: announce(r, scope="billing"),
        lambda r: r.contracts.amend(announce(r).id, scope="billing"),
        lambda r: r.register("web", port=1).update(tags="billing"),
        lambda r: Instance(service="a", id="1", host="h", port=1, tags="billing"),
        lambda r: r.register("web", port=1, checks="billing"),
        lambda r: Http(headers="billing"),
    ],
)
def test_a_text_is_never_taken_for_a_list(memory, use):
    with pytest.raises(InvalidInput) as caught:
        use(memory)
    assert NAME in str(caught.value)


def announce(registry, **more):
    return registry.contracts.announce(
        "web", change="x", version="1.0.0", effective=FUTURE, **more
    )


def test_a_text_is_never_taken_for_a_list_by_asyncio_either():
    async def ask():
        async with await AsyncServiceRegistry.open() as registry:
            await registry.wait_ready("billing", 0)

    with pytest.raises(InvalidInput, match="a list of texts"):
        asyncio.run(ask())


def test_tags_may_be_any_iterable(memory):
    given = memory.register("web", port=1, id="w", tags=(c for c in "ab"))
    assert given.instance.tags == frozenset("ab")
    given.update(tags=["c"])
    assert memory.find("web", tags=["c"])[0].tags == frozenset("c")


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda r: r.register("w", prot=1), "did you mean 'port'?"),
        (lambda r: r.register("w", port=1, tag=["x"]), "did you mean 'tags'?"),
        (lambda r: r.service("w", polcy="p2c"), "did you mean 'policy'?"),
        (lambda r: r.service("w", policy="p2b"), "did you mean 'p2c'?"),
        (lambda r: r.lock("w", tll=3), "did you mean 'ttl'?"),
        (lambda r: r.claim(["w"], by="a", reson="b"), "did you mean 'reason'?"),
        (lambda r: r.freeze("w", 1, 2, reasons="b"), "did you mean 'reason'?"),
        (lambda r: r.contracts.announce("w", effektive=1), "mean 'effective'?"),
        (lambda r: r.may("relaese", "w"), "did you mean 'release'?"),
        (lambda r: r.register("w", port=1).update(wieght=1), "mean 'weight'?"),
        (lambda r: ServiceRegistry.open(keeep=3), "did you mean 'keep'?"),
        (lambda r: open_store("http://h:1", tokn="x"), "did you mean 'token'?"),
        (lambda r: open_store("sqlit:///x.db"), "did you mean 'sqlite'?"),
    ],
)
def test_a_misspelt_name_is_told_with_the_one_that_was_meant(memory, use, said):
    with pytest.raises(InvalidInput) as caught:
        use(memory)
    assert said in str(caught.value)
    assert memory.services().keys() <= {"w"}


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda r: r.register("w", port=1, checks=["/h"]), "such as Http('/h')"),
        (lambda r: r.register("w", port=1, checks=Http("/h")), "a list: [Http(...)]"),
        (lambda r: r.register("w", port=1, checks=None), "a list of texts"),
        (lambda r: r.register("w", port=1, meta="x"), "a mapping such as"),
        (lambda r: r.register("w", port=1, requires=["b"]), "a mapping such as"),
        (lambda r: r.service("w", panic="half"), "a number from 0 to 1"),
        (lambda r: r.service("w", slow_start="3"), "a number from 0"),
        (lambda r: r.service("w", zone=1), "a DNS label"),
        (lambda r: r.service("w", ejection=3), "a Ejection such as"),
        (lambda r: r.lock("w", timeout="3"), "a number from 0 on"),
        (lambda r: r.lock("w", holder=3), "a text"),
        (lambda r: r.lock("w").acquire(timeout="3"), "a number from 0 on"),
        (lambda r: r.wait_ready(["w"], timeout="3"), "a number from 0 on"),
        (lambda r: ServiceRegistry("sqlite:///x.db"), 'open("sqlite:///x.db")'),
        (lambda r: ServiceRegistry(r.store, timing=3), "a Timing such as"),
        (lambda r: ServiceRegistry(r.store, rules=3), "a Rules such as"),
        (lambda r: Timing(sweep=0), "a number from 0.001"),
        (lambda r: Timing(eviction=0.5), "a Eviction such as"),
        (lambda r: Eviction(share=15), "a number from 0 to 1"),
        (lambda r: Ejection(consecutive="5"), "a number from 1"),
        (lambda r: Rules(notice="14d"), "a number from 0"),
        (lambda r: Http(8080), "a path or an http(s) URL"),
        (lambda r: Http(headers={"A": "b"}), "a list of texts"),
        (lambda r: Http(headers=["Accept: x"]), "pairs of texts"),
        (lambda r: Http(initial="ok"), "one of passing"),
        (lambda r: Tcp(port="80"), "a port from 1 to 65535"),
        (lambda r: Call(function=True), "a function to call"),
        (lambda r: open_store(Path("x.db")), 'a text such as "sqlite:///x.db"'),
    ],
)
def test_a_wrong_type_is_refused_where_it_is_given(memory, use, said):
    with pytest.raises(InvalidInput) as caught:
        use(memory)
    assert said in str(caught.value)


def test_a_name_that_nobody_has_is_told_with_the_nearest(memory):
    memory.register("billing", port=1)
    biling = memory.service("biling")
    for _ in range(2):
        with pytest.raises(NoInstances, match="none is registered; did you mean 'bil"):
            biling.pick()
    with pytest.raises(NotReady, match=r"biling: no passing instance; did you mean"):
        memory.wait_ready(["biling"], timeout=0)
    with pytest.raises(NoInstances) as caught:
        memory.service("zebra").pick()
    assert caught.value.reasons == ("none is registered",)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://two.db", "three slashes before a relative path: sqlite:///two.db"),
        ("sqlite:two.db", "sqlite:///two.db"),
        ("sqlite:/two.db", "sqlite:///two.db"),
        ("sqlite://", "sqlite:///file.db"),
        ("sqlite:///", "sqlite:///relative/file.db"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///two.db?mode=ro", "a path without a query"),
        ("two.db", "a file is sqlite:///two.db"),
    ],
)
def test_a_wrong_store_url_is_refused_with_the_right_one(
    url, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        open_store(url)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_shown_without_its_password():
    assert shown("redis://u:pw@host/1") == "redis://***@host/1"
    assert shown("etcd://host:2379") == "etcd://host:2379"
    assert shown("sqlite:///r.db") == f"sqlite:///{Path.cwd()}/r.db"


def test_no_folder_is_made(tmp_path):
    with pytest.raises(StoreUnavailable) as caught:
        open_store(f"sqlite:///{tmp_path}/nope/r.db")
    assert f"there is no folder {tmp_path}/nope; make it" in str(caught.value)
    with pytest.raises(StoreUnavailable, match="it is a folder; name a file in it"):
        open_store(f"sqlite:///{tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_not_made_when_it_must_be_there(tmp_path):
    url = f"sqlite:///{tmp_path}/r.db"
    with pytest.raises(StoreMissing) as caught:
        ServiceRegistry.open(url, create=False)
    assert caught.value.place == f"{tmp_path}/r.db"
    (tmp_path / "r.db").touch()
    with pytest.raises(StoreMissing):
        open_store(url, create=False)
    assert (tmp_path / "r.db").stat().st_size == 0
    open_store(url).close()
    open_store(url, create=False).close()


def _foreign(path, statements):
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE mine (a)", "INSERT INTO mine VALUES (1)"],
        ["CREATE TABLE mine (a)", "PRAGMA user_version = 1"],
        ["CREATE TABLE state (a)", "CREATE TABLE records (a)"],
        ["PRAGMA application_id = 7"],
        ["PRAGMA user_version = 9"],
    ],
)
def test_a_database_of_something_else_is_left_as_it_is(tmp_path, statements):
    path = tmp_path / "other.db"
    _foreign(path, statements)
    before = path.read_bytes()
    with pytest.raises(UnsafeStore, match="a database of something else"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database at all, but long enough to look\n" * 20, "utf-8")
    before = path.read_bytes()
    with pytest.raises(UnsafeStore, match="no SQLite file"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_registry_without_the_mark_of_ours_still_opens_and_gets_it(tmp_path):
    path = tmp_path / "r.db"
    store = open_store(f"sqlite:///{path}")
    store.commit([Put("c/1", "kept")])
    store.close()
    _foreign(path, ["PRAGMA application_id = 0"])  # as the first files were
    store = open_store(f"sqlite:///{path}")
    assert [r.value for r in store.read("c/").records] == ["kept"]
    store.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA application_id").fetchone()[0] == 0x4D745352


def _as_nobody(path):
    """Open a store in a child without rights; return what it was told."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            open_store(f"sqlite:///{path}").close()
        except StoreUnavailable as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def test_a_store_without_permission_names_it_and_what_to_look_at():
    with tempfile.TemporaryDirectory() as name:  # tmp_path is closed to others
        folder = Path(name)
        store = folder / "r.db"
        open_store(f"sqlite:///{store}").close()
        folder.chmod(0o555)
        store.chmod(0o444)
        try:
            said = _as_nobody(store)
            assert f"cannot open the registry {store}: user " in said
            assert "may not read and write it; check its owner" in said
            store.chmod(0o666)
            said = _as_nobody(store)
            assert f"may not write in the folder {folder}; check" in said
        finally:
            folder.chmod(0o755)


def test_headers_may_be_any_pairs():
    """They are hashed when a request is made: lists must not get that far."""
    check = Http("/", headers=[["Accept", "text/plain"]])
    assert check.headers == (("Accept", "text/plain"),)
    assert hash(check)
