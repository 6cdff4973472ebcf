"""The benchmark behind `make bench`: the daemon, what it is compared with, and a load generator that shares no GIL."""
