"""Trains on a rented GPU: runs the ``run-job`` command on a machine that is rented for it. Imports no torch."""
