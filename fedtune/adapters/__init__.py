"""LoRA on a base model, and its tensors as one row of numbers."""
