"""Engines: what answers a batch of requests, as a protocol and in this process."""
