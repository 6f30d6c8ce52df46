"""The history file: its layout, and how it is opened.

Results are kept by (run, test, attempt) without a rowid: a run is appended at the end
of the tree, and the history of one test is a look-up a run. What fails is indexed.
The tests that ran in a part are kept once more as a roster, compressed; consecutive
runs of the same tests share one, so statistics over many runs read failures only.
"""

import sqlite3
import time

from .errors import HistoryError

VERSION = 1
_APPLICATION = 0x4D745241
_SCHEMA = """
CREATE TABLE run(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, started REAL NOT NULL,
  sha TEXT NOT NULL, branch TEXT NOT NULL, environment TEXT NOT NULL);
CREATE INDEX run_started ON run(started);
CREATE TABLE part(id INTEGER PRIMARY KEY, run INTEGER NOT NULL, shard TEXT NOT NULL,
  digest TEXT NOT NULL, counts TEXT NOT NULL, diagnostics TEXT NOT NULL, roster INTEGER, UNIQUE(run, shard));
CREATE TABLE test(id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
  file TEXT, line INTEGER, suite TEXT NOT NULL);
CREATE TABLE body(id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, message TEXT, data BLOB NOT NULL);
CREATE TABLE roster(id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, tests BLOB NOT NULL);
CREATE TABLE result(run INTEGER NOT NULL, test INTEGER NOT NULL, attempt INTEGER NOT NULL,
  outcome INTEGER NOT NULL, us INTEGER NOT NULL, start INTEGER, part INTEGER NOT NULL, body INTEGER,
  PRIMARY KEY(run, test, attempt)) WITHOUT ROWID;
CREATE INDEX result_bad ON result(run, test) WHERE outcome >= 6;
"""


def open_layout(db: sqlite3.Connection, path: str, patience: float) -> None:
    """Make the file a history, or see that it is one.

    Raises:
        HistoryError: It belongs to something else, or to a later version.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise HistoryError(
            path,
            f"written by a later version (layout {version}, this one knows {VERSION}); upgrade the package",
        )
    _switch_to_wal(db, patience)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cache_size = -65536")
    db.execute("PRAGMA temp_store = MEMORY")
    if version == 0:
        db.execute("BEGIN IMMEDIATE")  # a second process may be doing the same
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                db.execute("ROLLBACK")
                raise HistoryError(path, "is a database of something else")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")


def _switch_to_wal(db: sqlite3.Connection, patience: float) -> None:
    # SQLite does not wait here by itself when two processes open a new file at once.
    deadline = time.monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
