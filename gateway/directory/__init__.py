"""Who may send, and how: tenants, profiles, links, preferences and keys; the rules among them; resolution."""
