"""The files by which the server, a rented machine and the workers of a job communicate. Loads no torch."""
