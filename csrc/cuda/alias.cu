#include "cuda/geometry.h"
#include "cuda/launchers.h"
#include "cuda/sizes.h"
#if !defined(LATINO_DRIVER_LAUNCH)  // else NVRTC compiles the kernels
#include "cuda/alias_columns.cuh"
#endif

namespace latino::cuda {
namespace {

template <int kHeight, int kFactor>
void launch_alias_columns_of(const AliasColumns& p, cudaStream_t stream) {
  if constexpr (has_alias_kernels(kHeight, kSmallestSide, kFactor)) {
    constexpr int kColumns = alias_columns_per_block(kHeight, kFactor);
    const std::int64_t blocks = p.shape.pairs * p.shape.channels * (p.shape.width / 2 / kColumns);
    const LaunchShape shape{dim3(blocks_for(blocks, 1)), dim3(kColumns, kHeight / 8),
                            kColumns * kHeight * sizeof(float2)};
    const std::int64_t plane_size = std::int64_t{kHeight} * p.shape.width;
    // Of the full spectra the kernel reads the columns of the half-spectrum.
    const std::int64_t constants =
        (bytes_of(p.h, p.shape, plane_size) + bytes_of(p.back_projected, p.shape, plane_size)) / 2 +
        bytes_of(p.folded_power, p.shape, plane_size / (kFactor * kFactor));
    launch(kernel_name("alias_columns", {kHeight, kFactor}),
           LATINO_KERNEL(alias_columns<kHeight, kFactor>), shape, p,
           {8 * entries(p.shape), constants}, stream);
  } else {
    throw std::logic_error("alias_columns: a height and factor without a kernel");
  }
}

void launch_alias_columns(const AliasColumns& p, cudaStream_t stream) {
  with_side(p.shape.height, [&](auto side) {
    constexpr int kHeight = decltype(side)::value;
    switch (p.factor) {
      case 2: return launch_alias_columns_of<kHeight, 2>(p, stream);
      case 4: return launch_alias_columns_of<kHeight, 4>(p, stream);
      case 8: return launch_alias_columns_of<kHeight, 8>(p, stream);
      default: throw std::logic_error("alias_columns: a factor without a kernel");
    }
  });
}

}  // namespace

void launch_alias_prox_noise(const FourierRows& rows, const AliasColumns& columns,
                             cudaStream_t stream) {
  launch_fourier_rows_forward(rows, stream);
  launch_alias_columns(columns, stream);
  launch_fourier_rows_inverse(rows, stream);
}

}  // namespace latino::cuda
