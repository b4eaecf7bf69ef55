"""ONNX graphs of any family: how they are built, written, and compared with the model."""
