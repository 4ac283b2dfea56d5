"""Networks that teach another: EfficientAT, loading them, and distillation."""
