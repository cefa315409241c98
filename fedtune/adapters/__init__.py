"""LoRA on a base model, and its tensors as one row of numbers."""

import logging

# PEFT imports bitsandbytes where it is installed, which on a CPU tells in every process of kernels
# that it has not fetched.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
