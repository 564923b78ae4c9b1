"""The control socket: verbs, their shapes, and the client."""
