"""Endpoints over time: what is verified and started, watched, switched and drained."""
