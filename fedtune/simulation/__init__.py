"""Simulated attackers: what they send, what they do to their rows, and what they may know."""
