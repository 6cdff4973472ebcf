"""A secrets-aware, multi-tenant SMTP notification gateway: HTTP in, durable outbox, SMTP out."""

__version__ = "0.1.0"
