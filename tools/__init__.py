"""Programs for those who develop Kaiwa; not part of the package."""
