"""A run as a value: what is asked for, who does it, and what came of it. Every entry of the package goes this way."""
