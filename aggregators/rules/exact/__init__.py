"""Rules that keep the n - f updates of least spread, found by an exact search over subsets."""
