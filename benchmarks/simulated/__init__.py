"""A simulated cluster for the real driver: virtual time, a stand-in for Ray, nodes that come and go."""
