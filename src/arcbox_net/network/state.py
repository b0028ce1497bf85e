"""What a network remembers across restarts and crashes: one SQLite file. Owns the schema and its migrations.

A call that returned is on the disk (WAL, synchronous=FULL). A call that raised StateError is undone for
every later call, and after a crash it may be found either way (the disk refused to say). The next call simply
tries again: a full disk that was emptied needs no restart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from arcbox_net.errors import StateError
from arcbox_net.services.dhcp.records import Lease, LeaseChange

TABLES = ("meta", "ports", "forwards", "dns", "journal")
OF_A_RUN = ("ports", "forwards", "dns")
RUNNING = "running"  # in "meta" from start to orderly end: found at a start, it says the last run was killed
BUSY_TIMEOUT_S = 1.0

# Entry N takes a file from user_version N to N + 1. Entries are only ever appended.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE leases (
            ip INTEGER PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, identity BLOB NOT NULL, mac BLOB,
            client_id BLOB, hostname TEXT, named INTEGER NOT NULL, port TEXT, holder TEXT,
            lease_s INTEGER NOT NULL, expires_wall REAL, expires_mono REAL, boot TEXT NOT NULL
        )""",
        """CREATE TABLE entries (
            "table" TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
            PRIMARY KEY ("table", key)
        ) WITHOUT ROWID""",
    ),
)
SCHEMA_VERSION = len(MIGRATIONS)
LEASE_COLUMNS = tuple(field.name for field in dataclasses.fields(Lease))
_REPLACE_LEASE = (
    f"REPLACE INTO leases ({', '.join(LEASE_COLUMNS)}) VALUES ({', '.join('?' * len(LEASE_COLUMNS))})"
)


class State:
    """One network's file. Thread-safe; every method blocks on the disk, so a loop calls it from a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    @classmethod
    def open(cls, path: Path) -> State:
        """Open or create *path*, its directories with mode 0700. Raises StateError."""
        state = cls(path)
        with state._guard, state._errors("opened"):
            state._connected()
        return state

    def close(self) -> None:
        with self._guard:
            self._closed = True
            self._disconnect()

    def leases(self) -> list[Lease]:
        """All leases, in the order of their addresses."""
        with self._reading() as db:
            rows = db.execute(f"SELECT {', '.join(LEASE_COLUMNS)} FROM leases ORDER BY ip").fetchall()
        return [_lease(row) for row in rows]

    def commit_leases(self, changes: Sequence[LeaseChange]) -> None:
        """Write *changes* in their order as one transaction."""
        final: dict[int, Lease | None] = {}
        for change in changes:
            for freed in change.frees:
                final[int(freed)] = None
            final[int(change.ip)] = change.lease
        gone = [(ip,) for ip, lease in final.items() if lease is None]
        kept = [_row(ip, lease) for ip, lease in final.items() if lease is not None]

        def write(db: sqlite3.Connection) -> None:
            if gone:
                db.executemany("DELETE FROM leases WHERE ip = ?", gone)
            if kept:
                db.executemany(_REPLACE_LEASE, kept)

        self._write(write)

    def put(self, table: str, key: str, value: dict[str, Any]) -> None:
        self.put_all(table, {key: value})

    def put_all(self, table: str, values: Mapping[str, dict[str, Any]]) -> None:
        """Several entries in one transaction."""
        _check_table(table)
        rows = [(table, key, json.dumps(value, separators=(",", ":"))) for key, value in values.items()]
        self._write(lambda db: db.executemany("REPLACE INTO entries VALUES (?, ?, ?)", rows))

    def delete(self, table: str, key: str) -> None:
        """Remove *key*; one that does not exist is fine."""
        _check_table(table)
        self._write(lambda db: db.execute('DELETE FROM entries WHERE "table" = ? AND key = ?', (table, key)))

    def items(self, table: str) -> dict[str, dict[str, Any]]:
        _check_table(table)
        with self._reading() as db:
            rows = db.execute(
                'SELECT key, value FROM entries WHERE "table" = ? ORDER BY key', (table,)
            ).fetchall()
        return {key: json.loads(value) for key, value in rows}

    def forget_run(self) -> None:
        """The network ended as it should: ports, forwards and registered names of this run are over."""

        def write(db: sqlite3.Connection) -> None:
            db.executemany('DELETE FROM entries WHERE "table" = ?', [(table,) for table in OF_A_RUN])
            db.execute("""DELETE FROM entries WHERE "table" = 'meta' AND key = ?""", (RUNNING,))

        self._write(write)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._guard, self._errors("read"):
            yield self._connected()

    def _write(self, write: Callable[[sqlite3.Connection], object]) -> None:
        with self._guard, self._errors("written"):
            db = self._connected()
            db.execute("BEGIN IMMEDIATE")
            write(db)
            db.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise StateError(f"{self.path} is closed", path=str(self.path))
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        _make_directories(self.path.parent)
        # Created here, so that it never exists with the mode that the umask would give it.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            # One process owns the file, and the lock says so; it also makes the shared index file unnecessary.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            self._migrate(db)
        except BaseException:
            db.close()
            raise
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise StateError(
                f"{self.path} was written by a newer arcbox-net"
                f" (schema {version}, this one reads {SCHEMA_VERSION})",
                fix="use the newer version, or move the file away to start without its leases",
                path=str(self.path),
                schema=version,
            )
        for number in range(version, SCHEMA_VERSION):
            db.execute("BEGIN IMMEDIATE")
            for statement in MIGRATIONS[number]:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number + 1}")
            db.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        """Undo what is open, and turn what SQLite and the system raise into StateError."""
        try:
            yield
        except OSError as error:
            raise StateError(
                f"{self.path} cannot be {verb}: {error.strerror}", path=str(self.path), errno=error.errno
            ) from error
        except sqlite3.Error as error:
            self._undo()
            raise self._state_error(verb, error) from error

    def _state_error(self, verb: str, error: sqlite3.Error) -> StateError:
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        fix = "free space on that file system"
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            fix = "restore it from a copy, or move it away to start without its leases"
        elif name.startswith("SQLITE_BUSY"):
            fix = "another process has it open: stop that one"
        elif name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
            fix = "make the file and its directory writable"
        elif name.startswith("SQLITE_IOERR"):
            fix = "check that its file system has space and its disk works"
        return StateError(f"{self.path} cannot be {verb}: {error}", fix=fix, path=str(self.path), sqlite=name)

    def _undo(self) -> None:
        """Keep the connection if it can roll back: it then overwrites the failed frames of the WAL."""
        db = self._connection
        if db is None:
            return
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except sqlite3.Error:
            self._disconnect()

    def _disconnect(self) -> None:
        db, self._connection = self._connection, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()


def remove_state(path: Path) -> None:
    """Remove the file and what SQLite keeps beside it. Nothing may have it open."""
    for suffix in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")


def _make_directories(directory: Path) -> None:
    """Like makedirs, with 0700 for every new directory (makedirs applies a mode to the last one only)."""
    for level in [*reversed(directory.parents), directory]:
        with contextlib.suppress(FileExistsError):
            os.mkdir(level, 0o700)


def _lease(row: tuple[Any, ...]) -> Lease:
    values = dict(zip(LEASE_COLUMNS, row, strict=True))
    return Lease(**(values | {"ip": IPv4Address(row[0]), "named": bool(values["named"])}))


def _row(ip: int, lease: Lease) -> tuple[Any, ...]:
    return (ip, *(getattr(lease, column) for column in LEASE_COLUMNS[1:]))


def _check_table(table: str) -> None:
    if table not in TABLES:
        raise ValueError(f"{table!r} is none of {', '.join(TABLES)}")
