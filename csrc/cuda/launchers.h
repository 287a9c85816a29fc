// Entry points of the CUDA path, on device pointers.
//
// Nothing is checked here: the binding does that. `out` may be the very array of x or x_t, and must
// otherwise not overlap an input. A failed launch throws std::runtime_error. No size is zero.
#pragma once

#include "cuda/parameters.h"

namespace latino::cuda {

// Rows, columns, rows back: three launches. The sizes are those of has_fourier_kernels and
// has_alias_kernels.
void launch_fourier_prox_noise(const FourierRows& rows, const FourierColumns& columns,
                               cudaStream_t stream);
void launch_alias_prox_noise(const FourierRows& rows, const AliasColumns& columns,
                             cudaStream_t stream);
void launch_fourier_mask_prox_noise(const KSpace& parameters, cudaStream_t stream);

// One launch, any size.
void launch_gaussian_noise(const Quads& parameters, cudaStream_t stream);
void launch_langevin_noise(const Quads& parameters, cudaStream_t stream);
void launch_masked_prox_noise(const Quads& parameters, cudaStream_t stream);
void launch_reverse_step(const Quads& parameters, cudaStream_t stream);

// What stands around the transforms of torch.fft; these do not move the counter of the steps on.
void launch_combine_anchors(const Anchors& parameters, cudaStream_t stream);
void launch_fourier_combine(const FourierColumns& parameters, cudaStream_t stream);
void launch_alias_combine(const AliasColumns& parameters, cudaStream_t stream);
void launch_kspace_combine(const KSpace& parameters, cudaStream_t stream);

// Shared by the launchers of Fourier data steps.
void launch_fourier_rows_forward(const FourierRows& rows, cudaStream_t stream);
void launch_fourier_rows_inverse(const FourierRows& rows, cudaStream_t stream);

}  // namespace latino::cuda
