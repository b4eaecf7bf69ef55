"""Models that write labels frame by frame, in onnxruntime, onnx-asr and CTranslate2."""
