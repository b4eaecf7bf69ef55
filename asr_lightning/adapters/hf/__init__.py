"""What only models of Hugging Face with labels need."""
