"""Pixels and captions to vectors."""
