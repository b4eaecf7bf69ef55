"""Building blocks of training: optimizers, groups, precision, devices and checkpoints.

They know the contract of adapters and no model.
"""
