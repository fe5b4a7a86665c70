"""DPAAT in loops that are not ours: one loss for all, and what Lightning, Hugging Face and MONAI need beside."""
