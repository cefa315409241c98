"""Byzantine-robust federated fine-tuning of Hugging Face models with LoRA."""

__version__ = "0.1.0"
