"""The deployment folder: certificates, keys, scripts. Knows nothing of Flower's code."""
