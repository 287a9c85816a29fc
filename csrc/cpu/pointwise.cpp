// Pointwise steps of the sampler in one pass over memory each.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "latino/pointwise.h"

namespace latino::cpu {

constexpr std::int64_t kBlock = 1 << 13;           // entries handed to a thread at a time
constexpr std::int64_t kPointwiseGrain = 1 << 15;  // entries per thread, as torch has it

namespace {

// body(begin, end) over blocks of [0, size), in parallel.
template <class Body>
void for_each_block(std::int64_t size, int num_threads, const Body& body) {
  const int threads = threads_for(size, kPointwiseGrain, num_threads);
  parallel_for((size + kBlock - 1) / kBlock, threads, [&](std::int64_t unit) {
    body(unit * kBlock, std::min(size, (unit + 1) * kBlock));
  });
}

// body(plane, begin, end) over blocks of every plane, in parallel.
template <class Body>
void for_each_plane_block(const Shape& shape, int num_threads, const Body& body) {
  const std::int64_t size = shape.plane_size(), blocks = (size + kBlock - 1) / kBlock;
  const int threads = threads_for(shape.num_elements(), kPointwiseGrain, num_threads);
  parallel_for(shape.num_planes() * blocks, threads, [&](std::int64_t unit) {
    const std::int64_t begin = unit % blocks * kBlock;
    body(unit / blocks, begin, std::min(size, begin + kBlock));
  });
}

// body(pair, at, centred, count) over the runs of complex images (P, H, W), `at` the offset of a run
// in its image and `centred` its place where pixel (0, 0) lies in the middle: (i + n/2) mod n.
template <class Body>
void for_each_centred_run(const Shape& shape, int num_threads, const Body& body) {
  const std::int64_t height = shape.height, width = shape.width, half = width / 2;
  const int threads = threads_for(shape.num_elements(), kPointwiseGrain, num_threads);
  parallel_for(shape.pairs * height, threads, [&](std::int64_t unit) {
    const std::int64_t pair = unit / height, row = unit % height;
    const std::int64_t at = row * width, centred = (row + height / 2) % height * width;
    body(pair, at, centred + half, width - half);
    if (half > 0) body(pair, at + width - half, centred, half);
  });
}

}  // namespace

void kspace_pack(const Shape& shape, const InnerStep& step, float* image, int num_threads) {
  const std::int64_t size = shape.plane_size();
  for_each_centred_run(shape, num_threads, [&](std::int64_t pair, std::int64_t at,
                                               std::int64_t centred, std::int64_t count) {
    const std::int64_t re = 2 * pair * size + centred, im = re + size;
    const float* x_t = step.x_t;
    interleave_row({step.x + re, step.x + im, x_t == nullptr ? nullptr : x_t + re,
                    x_t == nullptr ? nullptr : x_t + im, step.x_weight.of(pair)},
                   count, image + 2 * (pair * size + at));
  });
}

void kspace_parts(const Shape& shape, const float* image, float* out, int num_threads) {
  const std::int64_t size = shape.plane_size();
  for_each_centred_run(shape, num_threads, [&](std::int64_t pair, std::int64_t at,
                                               std::int64_t centred, std::int64_t count) {
    float* re = out + 2 * pair * size + centred;
    parts_row(image + 2 * (pair * size + at), count, re, re + size);
  });
}

void kspace_combine(const Shape& shape, const MaskedData& data, float* spectrum, int num_threads) {
  const std::int64_t size = shape.plane_size();
  const float root = std::sqrt(static_cast<float>(size));
  for_each_centred_run(shape, num_threads, [&](std::int64_t pair, std::int64_t at,
                                               std::int64_t centred, std::int64_t count) {
    kspace_combine_row(data.mask.plane(pair, 0) + centred, data.y.plane(pair, 0) + centred,
                       data.y.plane(pair, 1) + centred, data.gamma.of(pair), root, count,
                       spectrum + 2 * (pair * size + at));
  });
}

void masked_prox(const Shape& shape, const MaskedProx& prox, float* out, int num_threads) {
  const std::int64_t size = shape.plane_size();
  for_each_plane_block(
      shape, num_threads, [&](std::int64_t plane, std::int64_t begin, std::int64_t end) {
        const std::int64_t pair = plane / shape.channels, channel = plane % shape.channels;
        const float* mask = prox.mask.plane(pair, channel) + begin;
        const float* y = prox.y.plane(pair, channel) + begin;
        const std::int64_t at = plane * size + begin;
        masked_prox_row(prox.v + at, mask, y, prox.gamma.of(pair), end - begin, out + at);
      });
}

void keep_observed(const Shape& shape, const float* x, Broadcast mask, float* out,
                   int num_threads) {
  const std::int64_t size = shape.plane_size();
  for_each_plane_block(
      shape, num_threads, [&](std::int64_t plane, std::int64_t begin, std::int64_t end) {
        const std::int64_t at = plane * size + begin;
        const float* seen = mask.plane(plane / shape.channels, plane % shape.channels);
        keep_row(x + at, seen + begin, end - begin, out + at);
      });
}

void fourier_combine(const Shape& shape, const FourierData& data, float* spectrum,
                     int num_threads) {
  const Shape half{shape.pairs, shape.channels, shape.height, shape.width / 2 + 1};
  for_each_plane_block(
      half, num_threads, [&](std::int64_t plane, std::int64_t begin, std::int64_t end) {
        const std::int64_t pair = plane / half.channels, channel = plane % half.channels;
        fourier_combine_row(data.power.plane(pair, channel) + begin,
                            data.back_projected.plane(pair, channel) + 2 * begin,
                            data.gamma.of(pair), end - begin,
                            spectrum + 2 * (plane * half.plane_size() + begin));
      });
}

void running_moments(std::int64_t size, float count, const MomentArrays& arrays, int num_threads) {
  for_each_block(size, num_threads, [&](std::int64_t begin, std::int64_t end) {
    running_moments_row(arrays, count, begin, end);
  });
}

}  // namespace latino::cpu
