"""HOW FAST, Triton: one kernel, its launch wrapper and its launch shape per file.

Installed as ``latino_engine.kernels``. Nothing here imports the package: the arrows point from
``latino_engine`` to here, never back. Nothing is imported on the way either: the package can be
imported where Triton is missing, its modules cannot.

A launch wrapper allocates and launches, nothing else. It trusts its caller, `latino_engine.ops`,
for contiguous tensors of agreeing sizes on one GPU, none of them empty.

=====================  =========================================================================
`philox_integers`      the words of the noise, for tests
`gaussian_noise`       eps
`langevin_noise`       z + scale eps
`masked_prox_noise`    anchors, masked data step and noise; its scalars from a table of steps
`reverse_step`         x0 + sigma_next (kept (x_t - x0) + renewed eps)
`fourier_prox`         (gamma conj(h) Y + V) / (gamma |h|^2 + 1) on half-spectra
`alias_prox`           the same for super-resolution, on full spectra
=====================  =========================================================================
"""
