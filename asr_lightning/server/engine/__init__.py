"""The job engine of the training server: a store, a supervisor and worker processes. Knows neither HTTP nor torch."""
