"""What a client does with the anchor: TRL's local steps on its own data."""
