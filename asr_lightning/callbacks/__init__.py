"""When things happen: validate, freeze, stop, save. Callbacks know the adapter's contract and no model."""
