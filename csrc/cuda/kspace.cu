#include "cuda/geometry.h"
#include "cuda/launchers.h"
#include "cuda/sizes.h"
#if !defined(LATINO_DRIVER_LAUNCH)  // else NVRTC compiles the kernels
#include "cuda/kspace_planes.cuh"
#endif

namespace latino::cuda {
namespace {

template <int kWidth>
LaunchShape rows_shape(const Shape& shape) {
  constexpr int kRows = rows_per_block(kWidth);
  return {dim3(blocks_for(shape.pairs * shape.height, kRows)), dim3(kWidth / 8, kRows),
          kRows * row_slots(kWidth) * sizeof(float2)};
}

void launch_kspace_columns(const KSpace& p, cudaStream_t stream) {
  with_side(p.shape.height, [&](auto side) {
    constexpr int kHeight = decltype(side)::value, kColumns = columns_per_block(kHeight);
    const LaunchShape shape{dim3(blocks_for(p.shape.pairs * (p.shape.width / kColumns), 1)),
                            dim3(kColumns, kHeight / 8), kColumns * kHeight * sizeof(float2)};
    const std::int64_t plane_size = std::int64_t{kHeight} * p.shape.width;
    const Shape one_channel{p.shape.pairs, 1, p.shape.height, p.shape.width};
    const std::int64_t constants =
        bytes_of(p.mask, one_channel, plane_size) + bytes_of(p.y, p.shape, plane_size);
    launch(kernel_name("kspace_columns", {kHeight}), LATINO_KERNEL(kspace_columns<kHeight>), shape,
           p, {8 * entries(p.shape), constants}, stream);
  });
}

}  // namespace

void launch_fourier_mask_prox_noise(const KSpace& p, cudaStream_t stream) {
  const std::int64_t spectrum = 4 * entries(p.shape);
  with_side(p.shape.width, [&](auto side) {
    constexpr int kWidth = decltype(side)::value;
    const LaunchShape shape = rows_shape<kWidth>(p.shape);
    launch(kernel_name("kspace_rows_forward", {kWidth}), LATINO_KERNEL(kspace_rows_forward<kWidth>),
           shape, p, {bytes_of(p.x, p.shape) + bytes_of(p.x_t, p.shape) + spectrum, 0}, stream);
    launch_kspace_columns(p, stream);
    launch(kernel_name("kspace_rows_inverse", {kWidth}), LATINO_KERNEL(kspace_rows_inverse<kWidth>),
           shape, p, {bytes_of(p.out, p.shape) + spectrum, 0}, stream);
  });
}

}  // namespace latino::cuda
