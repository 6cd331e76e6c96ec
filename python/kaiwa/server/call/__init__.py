"""The life of a call, for any wire protocol and any transport."""
