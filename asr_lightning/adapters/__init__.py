"""Model families, one file each; they know the contract, and neither each other nor the training loop."""
