"""CaT2I-AE and the latent diffusion model on the produced shards."""
