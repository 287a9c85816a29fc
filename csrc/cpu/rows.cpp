#include "cpu/rows.h"

#include <cstdint>

#include "cpu/clones.h"
#include "latino/normal.h"
#include "latino/philox.h"
#include "latino/pointwise.h"

namespace latino::cpu {

LATINO_CLONES void fill_tile(Words first, PhiloxKey key, int count, Tile& tile) {
  for (int i = 0; i < count; ++i) {
    const Words counter{first.x + static_cast<std::uint32_t>(i), first.y, first.z, first.w};
    const Normals normals = quad_normals(philox4x32(counter, key));
    tile.lane[0][i] = normals.lane0;
    tile.lane[1][i] = normals.lane1;
    tile.lane[2][i] = normals.lane2;
    tile.lane[3][i] = normals.lane3;
  }
}

// ivdep below: entry i of `out` depends on no other entry, even where `out` is an input.

LATINO_CLONES void langevin_row(const float* z, float scale, const float* eps, std::int64_t count,
                                float* out) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) out[i] = latino::add_noise(z[i], scale, eps[i]);
}

LATINO_CLONES void reverse_row(const float* x0_hat, const float* x_t, const ReverseStep& step,
                               const float* eps, std::int64_t count, float* out) {
  const ReverseStep scalars = step;  // a copy that `out` cannot overlap
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = latino::reverse_step(x0_hat[i], x_t[i], scalars, eps[i]);
  }
}

LATINO_CLONES void masked_prox_row(const float* v, const float* mask, const float* y, float gamma,
                                   std::int64_t count, float* out) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = latino::masked_prox(v[i], gamma * mask[i], y[i]);
  }
}

LATINO_CLONES void masked_prox_noise_row(const float* v, const float* mask, const float* y,
                                         float gamma, float scale, const float* eps,
                                         std::int64_t count, float* out) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = latino::add_noise(latino::masked_prox(v[i], gamma * mask[i], y[i]), scale, eps[i]);
  }
}

LATINO_CLONES void running_moments_row(const MomentArrays& arrays, float number,
                                       std::int64_t begin, std::int64_t end) {
  const float *mean = arrays.mean, *m2 = arrays.m2, *x = arrays.x;
  float *mean_out = arrays.mean_out, *m2_out = arrays.m2_out;
#pragma GCC ivdep
  for (std::int64_t i = begin; i < end; ++i) {
    const Moments moments = latino::running_moments(mean[i], m2[i], number, x[i]);
    mean_out[i] = moments.mean;
    m2_out[i] = moments.m2;
  }
}

}  // namespace latino::cpu
