"""From a round's good replies to a new anchor: combined in a geometry, stepped by an optimizer."""
