"""A deterministic simulation of the service in virtual time; see docs/simulation.md."""
