"""The store: one contract for every engine, and what only SQLite has."""
