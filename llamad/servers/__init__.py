"""One server's life and all of them; the fleet changes things, the board tells everyone."""
