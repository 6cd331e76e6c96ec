"""Training of the demonstration codec and language model. See README.md."""
