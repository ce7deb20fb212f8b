"""VINE's sidecars under `meta/`."""
