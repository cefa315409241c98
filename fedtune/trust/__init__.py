"""Verify a run's record against its recipe, a node's own log and the published replies."""
