"""What a run writes down: its folder, checkpoints, events, manifest and signed chain of records."""
