"""Storage: files that appear whole or not at all, JSON, hashes, provenance."""
