"""The networks of Stable Video Diffusion, and the denoiser made of them."""
