"""The store on SQLite, which is one daemon's alone."""

from gateway.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
