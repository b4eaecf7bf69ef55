"""Converters of models that write labels frame by frame: CTC and transducers, of Hugging Face and of NeMo."""
