"""What a participant can hold a run's record against: its recipe, a node's own log, the replies."""
