#include <algorithm>

#include "cuda/geometry.h"
#include "cuda/launchers.h"
#include "cuda/sizes.h"
#if !defined(LATINO_DRIVER_LAUNCH)  // else NVRTC compiles the kernels
#include "cuda/elementwise.cuh"
#endif

namespace latino::cuda {
namespace {

LaunchShape elements_shape(std::int64_t count) {
  constexpr unsigned kMaxBlocks = 132 * 16;  // beyond a full device the threads stride
  return {dim3(std::min(blocks_for(count, kElementThreads), kMaxBlocks)), dim3(kElementThreads),
          0};
}

}  // namespace

void launch_combine_anchors(const Anchors& p, cudaStream_t stream) {
  const std::int64_t bytes =
      bytes_of(p.x, p.shape) + bytes_of(p.x_t, p.shape) + 4 * entries(p.shape);
  launch("combine_anchors", LATINO_KERNEL(combine_anchors), elements_shape(entries(p.shape)), p,
         {bytes, 0}, stream);
}

void launch_fourier_combine(const FourierColumns& p, cudaStream_t stream) {
  const std::int64_t plane_size = std::int64_t{p.shape.height} * (p.shape.width / 2 + 1);
  const std::int64_t count = p.shape.pairs * p.shape.channels * plane_size;
  const std::int64_t constants =
      bytes_of(p.power, p.shape, plane_size) + bytes_of(p.back_projected, p.shape, plane_size);
  launch("fourier_combine", LATINO_KERNEL(fourier_combine), elements_shape(count), p,
         {16 * count, constants}, stream);
}

void launch_alias_combine(const AliasColumns& p, cudaStream_t stream) {
  const std::int64_t plane_size = std::int64_t{p.shape.height} * p.shape.width;
  const std::int64_t kept_size = plane_size / (p.factor * p.factor);
  const std::int64_t constants = bytes_of(p.h, p.shape, plane_size) +
                                 bytes_of(p.back_projected, p.shape, plane_size) +
                                 bytes_of(p.folded_power, p.shape, kept_size);
  launch("alias_combine", LATINO_KERNEL(alias_combine),
         elements_shape(p.shape.pairs * p.shape.channels * kept_size), p,
         {32 * entries(p.shape), constants}, stream);
}

void launch_kspace_combine(const KSpace& p, cudaStream_t stream) {
  const std::int64_t plane_size = std::int64_t{p.shape.height} * p.shape.width;
  const Shape one_channel{p.shape.pairs, 1, p.shape.height, p.shape.width};
  const std::int64_t constants =
      bytes_of(p.mask, one_channel, plane_size) + bytes_of(p.y, p.shape, plane_size);
  launch("kspace_combine", LATINO_KERNEL(kspace_combine),
         elements_shape(p.shape.pairs * plane_size), p, {8 * entries(p.shape), constants}, stream);
}

}  // namespace latino::cuda
