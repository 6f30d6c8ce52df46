"""Move a service from its own copies of the modules to the packages."""
