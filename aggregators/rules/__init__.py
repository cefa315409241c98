"""Aggregation rules: on the Gram matrix, on columns, or exact over subsets."""
