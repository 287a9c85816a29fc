"""One table of tolerances: relative, norm-wise, about three times the worst that was measured.

The worst is over all operators and sizes of test_operators.py, on an x86-64 CPU. `..._cg` are
the operators solved by conjugate gradients to tol = 1e-6. `batch` and `noncontiguous` compare two
runs of one operator; `dense` compares with a dense float64 solve.
"""

from __future__ import annotations

import torch

F32, F64 = torch.float32, torch.float64

#: Largest absolute difference from the check file of the shipped prior (measured 1e-6).
CHECK_FILE = 1e-5
#: One sample drawn in other batches, chunks or runtimes, relative (measured 3e-7 and 2e-6).
SAME_RUNTIME = 2e-6
OTHER_RUNTIME = 1e-5

TOLERANCES: dict[tuple[str, torch.dtype], float] = {
    # law, dtype: bound  # worst measured
    ("linear", F32): 8e-7,  # 2.4e-7
    ("linear", F64): 1.5e-15,  # 4.4e-16
    ("adjoint", F32): 1.5e-7,  # 3.6e-8
    ("adjoint", F64): 2.5e-16,  # 5.8e-17
    ("autograd_adjoint", F32): 8e-7,  # 2.3e-7
    ("autograd_adjoint", F64): 2e-15,  # 6.1e-16
    ("prox_optimal", F32): 3e-5,  # 1.0e-5, at gamma = 225
    ("prox_optimal", F64): 7e-14,  # 2.1e-14
    ("prox_optimal_cg", F32): 4e-6,  # 1.1e-6
    ("prox_optimal_cg", F64): 3e-6,  # 9.9e-7
    ("prox_limits", F32): 1.2e-6,  # 4.1e-7
    ("prox_limits", F64): 4e-15,  # 1.4e-15
    ("batch", F32): 5e-7,  # 3.2e-8 here; other FFT plans for one image are allowed to round
    ("batch", F64): 2e-15,  # 6.2e-16
    ("noncontiguous", F32): 4e-7,  # 1.1e-7
    ("noncontiguous", F64): 1e-15,  # 2.1e-16
    # Two runs of CG may stop an iteration apart, both within tol = 1e-6: on processors where one
    # image and a batch round differently, tomography does.
    ("batch_cg", F32): 6e-6,  # 2.1e-6
    ("batch_cg", F64): 1.5e-7,  # 5.0e-8
    ("noncontiguous_cg", F32): 6e-6,  # 1.1e-7, and as above
    ("noncontiguous_cg", F64): 6e-10,  # 2.0e-10
    ("dense", F64): 5e-14,  # 1.5e-14
    ("dense_cg", F64): 3.3e-5,  # 1.1e-5
    ("gradient", F32): 2e-6,  # 7.1e-7
    ("gradient", F64): 1e-14,  # 3.2e-15
    ("gradient_cg", F32): 7e-6,  # 2.2e-6
    ("gradient_cg", F64): 5e-6,  # 1.4e-6
}
