"""What the server, a rented machine and a trainer tell each other through the folder of a job. Loads no torch."""
