"""What the operator wrote: frozen values with positions, and the options the binary knows."""
