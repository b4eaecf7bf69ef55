"""A GPU on demand: the job of ``run-job`` on a machine that is rented for it. Loads no torch and no provider."""
