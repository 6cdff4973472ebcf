"""A daemon in the test's own process: the settings that all such tests begin with, for a folder of its own."""

SETTINGS = """\
[http]
listen = "127.0.0.1:0"
[admin]
socket = "admin.sock"
[store]
url = "sqlite:///gateway.db"
disk_floor_bytes = 0
[master_key]
file = "master.key"
"""
