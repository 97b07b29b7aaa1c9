"""Teachers: adapters that make a network, or a density in closed form, look like D(x_t, sigma, condition)."""
