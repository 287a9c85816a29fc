#include "cuda/geometry.h"
#include "cuda/launchers.h"
#include "cuda/sizes.h"
#if !defined(LATINO_DRIVER_LAUNCH)  // else NVRTC compiles the kernels
#include "cuda/fourier_columns.cuh"
#include "cuda/fourier_rows.cuh"
#endif

namespace latino::cuda {
namespace {

template <int kWidth>
LaunchShape rows_shape(const Shape& shape) {
  constexpr int kRows = rows_per_block(kWidth);
  const std::int64_t pairs_of_rows = shape.pairs * shape.channels * (shape.height / 2);
  return {dim3(blocks_for(pairs_of_rows, kRows)), dim3(kWidth / 8, kRows),
          kRows * row_slots(kWidth) * sizeof(float2)};
}

void launch_fourier_columns(const FourierColumns& p, cudaStream_t stream) {
  with_side(p.shape.height, [&](auto side) {
    constexpr int kHeight = decltype(side)::value, kColumns = columns_per_block(kHeight);
    const std::int64_t blocks = p.shape.pairs * p.shape.channels * (p.shape.width / 2 / kColumns);
    const LaunchShape shape{dim3(blocks_for(blocks, 1)), dim3(kColumns, kHeight / 8),
                            kColumns * kHeight * sizeof(float2)};
    const std::int64_t plane_size = std::int64_t{kHeight} * (p.shape.width / 2 + 1);
    const std::int64_t constants = bytes_of(p.power, p.shape, plane_size) +
                                   bytes_of(p.back_projected, p.shape, plane_size);
    launch(kernel_name("fourier_columns", {kHeight}), LATINO_KERNEL(fourier_columns<kHeight>),
           shape, p, {8 * entries(p.shape), constants}, stream);
  });
}

}  // namespace

void launch_fourier_rows_forward(const FourierRows& p, cudaStream_t stream) {
  const std::int64_t bytes =
      bytes_of(p.x, p.shape) + bytes_of(p.x_t, p.shape) + 4 * entries(p.shape);
  with_side(p.shape.width, [&](auto side) {
    constexpr int kWidth = decltype(side)::value;
    launch(kernel_name("fourier_rows_forward", {kWidth}),
           LATINO_KERNEL(fourier_rows_forward<kWidth>), rows_shape<kWidth>(p.shape), p, {bytes, 0},
           stream);
  });
}

void launch_fourier_rows_inverse(const FourierRows& p, cudaStream_t stream) {
  const std::int64_t bytes = bytes_of(p.out, p.shape) + 4 * entries(p.shape);
  with_side(p.shape.width, [&](auto side) {
    constexpr int kWidth = decltype(side)::value;
    launch(kernel_name("fourier_rows_inverse", {kWidth}),
           LATINO_KERNEL(fourier_rows_inverse<kWidth>), rows_shape<kWidth>(p.shape), p, {bytes, 0},
           stream);
  });
}

void launch_fourier_prox_noise(const FourierRows& rows, const FourierColumns& columns,
                               cudaStream_t stream) {
  launch_fourier_rows_forward(rows, stream);
  launch_fourier_columns(columns, stream);
  launch_fourier_rows_inverse(rows, stream);
}

}  // namespace latino::cuda
