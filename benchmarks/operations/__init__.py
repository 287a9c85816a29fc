"""Every fused operation and every operator against its baselines, through pytest-benchmark."""
