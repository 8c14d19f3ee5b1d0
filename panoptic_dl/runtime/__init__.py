"""Exported models without PyTorch: numpy, Pillow and onnxruntime are all that is imported."""
