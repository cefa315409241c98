"""What can be known to be wrong, or unwise, before a run begins."""
