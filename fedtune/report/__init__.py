"""What a person sees of a run: progress while it lasts, a table and a picture at the end."""
