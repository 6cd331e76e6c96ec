"""Wire protocols, a folder each. `base` says what one is; `registry` lists those in use."""
