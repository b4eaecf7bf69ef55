"""Code for those models of Hugging Face that write labels: CTC and transducers."""
