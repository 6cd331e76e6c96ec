"""Protocols of conversations, one module each: bytes to events and back, nothing else."""
