"""Moonshine in onnxruntime and in its makers' own runtime."""
