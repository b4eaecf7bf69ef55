"""The before/after report of a run: one offline page, and the same content as JSON and Markdown. Knows no model."""
