"""Training: priors by denoising."""
