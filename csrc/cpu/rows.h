// The innermost loops, each compiled for several instruction sets in rows.cpp.
//
// `out` may be an input itself; any other overlap is not allowed.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "latino/philox.h"
#include "latino/pointwise.h"

namespace latino::cpu {

constexpr int kTileQuads = 512;  // a tile of normals is 8 KiB: it stays in the L1 cache

struct Tile {
  alignas(64) float lane[4][kTileQuads];
};

// The normals of `count` consecutive quads from the quad first.x on.
void fill_tile(Words first, PhiloxKey key, int count, Tile& tile);

void langevin_row(const float* z, float scale, const float* eps, std::int64_t count, float* out);

void reverse_row(const float* x0_hat, const float* x_t, const ReverseStep& step, const float* eps,
                 std::int64_t count, float* out);

void masked_prox_row(const float* v, const float* mask, const float* y, float gamma,
                     std::int64_t count, float* out);

void masked_prox_noise_row(const float* v, const float* mask, const float* y, float gamma,
                           float scale, const float* eps, std::int64_t count, float* out);

void running_moments_row(const MomentArrays& arrays, float number, std::int64_t begin,
                         std::int64_t end);

}  // namespace latino::cpu
