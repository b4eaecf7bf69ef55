"""The job engine of the training server: a store, a supervisor and worker processes. Loads no torch."""
