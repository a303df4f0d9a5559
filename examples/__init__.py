"""Short programs to begin with; each runs as `python -m examples.NAME`."""
