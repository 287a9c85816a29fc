#include <algorithm>

#include "cuda/geometry.h"
#include "cuda/launchers.h"
#include "cuda/sizes.h"
#if !defined(LATINO_DRIVER_LAUNCH)  // else NVRTC compiles the kernels
#include "cuda/quads.cuh"
#endif

namespace latino::cuda {
namespace {

constexpr int kVector = 4;
constexpr std::int64_t kMaxGridY = 65535;

bool is_aligned(const void* data, int type) {
  const std::uintptr_t run = kVector * (type == kFloat32 ? 4 : 2);
  return reinterpret_cast<std::uintptr_t>(data) % run == 0;
}

// Whether runs of four pixels of both halves of a row begin on a whole vector.
bool takes_vectors(const Quads& p) {
  return p.shape.width % (2 * kVector) == 0 && is_aligned(p.x.data, p.x.type) &&
         is_aligned(p.x_t.data, p.x_t.type) && is_aligned(p.mask.data, kFloat32) &&
         is_aligned(p.y.data, kFloat32) && is_aligned(p.out.data, p.out.type);
}

LaunchShape quads_shape(const Shape& shape, int vector) {
  const int half = (shape.width + 1) / 2;
  const std::int64_t runs = std::int64_t{(shape.height + 1) / 2} * (half / vector);
  const std::int64_t planes = std::min(shape.pairs * shape.channels, kMaxGridY);
  return {dim3(blocks_for(runs, kQuadThreads), static_cast<unsigned>(planes)), dim3(kQuadThreads),
          0};
}

void launch_quads(const char* name, void (*vectors)(Quads), void (*singles)(Quads), const Quads& p,
                  cudaStream_t stream) {
  const std::int64_t plane_size = std::int64_t{p.shape.height} * p.shape.width;
  const std::int64_t images =
      bytes_of(p.x, p.shape) + bytes_of(p.x_t, p.shape) + bytes_of(p.out, p.shape);
  const std::int64_t constants =
      p.mask.data == nullptr
          ? 0
          : bytes_of(p.mask, p.shape, plane_size) + bytes_of(p.y, p.shape, plane_size);
  const int vector = takes_vectors(p) ? kVector : 1;
  launch(kernel_name(name, {vector}), vector == kVector ? vectors : singles,
         quads_shape(p.shape, vector), p, {images, constants}, stream);
}

}  // namespace

void launch_gaussian_noise(const Quads& p, cudaStream_t stream) {
  launch_quads("gaussian_noise", LATINO_KERNEL(gaussian_noise<kVector>),
               LATINO_KERNEL(gaussian_noise<1>), p, stream);
}

void launch_langevin_noise(const Quads& p, cudaStream_t stream) {
  launch_quads("langevin_noise", LATINO_KERNEL(langevin_noise<kVector>),
               LATINO_KERNEL(langevin_noise<1>), p, stream);
}

void launch_masked_prox_noise(const Quads& p, cudaStream_t stream) {
  launch_quads("masked_prox_noise", LATINO_KERNEL(masked_prox_noise<kVector>),
               LATINO_KERNEL(masked_prox_noise<1>), p, stream);
}

void launch_reverse_step(const Quads& p, cudaStream_t stream) {
  launch_quads("reverse_step", LATINO_KERNEL(reverse_step<kVector>),
               LATINO_KERNEL(reverse_step<1>), p, stream);
}

}  // namespace latino::cuda
