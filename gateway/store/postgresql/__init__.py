"""The store on PostgreSQL, which several daemons share."""

from gateway.store.postgresql.store import PostgresqlStore

__all__ = ["PostgresqlStore"]
