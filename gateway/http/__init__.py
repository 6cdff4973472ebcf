"""The HTTP half: callers are known, requests are read within limits, checked once, and answered from one route table."""
