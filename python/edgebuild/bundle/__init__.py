"""The bundle format: manifest, archive, reader and writer (docs/bundle-format.md)."""
