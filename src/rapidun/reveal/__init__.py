"""Reveal-and-Release: make a model reveal what it should forget, and release it from that, without the forget data."""
