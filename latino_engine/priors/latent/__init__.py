"""Priors of text-to-image pipelines, which denoise latents."""
