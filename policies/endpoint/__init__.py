"""The gateway: a request from its first byte to its decision."""
