"""What the defence carries from round to round, and what it does with rows of its own."""
