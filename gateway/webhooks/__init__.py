"""Outgoing webhooks: what tenants asked to be told, composed with what happened, and sent until it is taken."""
