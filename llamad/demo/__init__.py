"""A real model on a real engine, with no config, no root and no GPU."""
