"""What every rule stands on: rows, blocks, the Gram matrix, sorting, ties, and one aggregation."""
