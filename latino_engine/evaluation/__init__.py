"""Scores of images and of distributions, and pictures of them."""
