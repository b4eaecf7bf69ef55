"""What a training stands on: optimizers, groups, precision, devices, checkpoints. Knows the contract and no model."""
