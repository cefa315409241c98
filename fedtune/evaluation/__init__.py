"""What an adapter is worth: its held-out figures again, and the model that it makes."""
