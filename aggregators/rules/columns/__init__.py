"""Rules on the columns: each coordinate by itself."""
