"""The durable queue between HTTP and SMTP: accept, claim, settle, sweep."""
