"""Stand-ins for other packages, over Kaiwa's own codec."""
