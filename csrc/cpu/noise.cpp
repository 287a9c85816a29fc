// Noise made where it is used: no array of normals is written unless it is asked for.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "cpu/spectral_step.h"
#include "latino/fft_plan.h"
#include "latino/philox.h"
#include "latino/pointwise.h"

namespace latino::cpu {

constexpr std::int64_t kNoiseGrain = 1 << 14;  // normals per thread, some 30 microseconds

namespace {

// Where a run of normals belongs: `offset` into the plane (pair, channel).
struct Place {
  std::int64_t pair, channel, plane, offset;
};

// Hands out the tile's quads [begin, begin + count) of a plane as rows: a run of consecutive quads
// within one pair of rows is four runs of pixels, two of them missing at an odd border.
template <class Sink>
void scatter_rows(const Tile& tile, const Shape& shape, std::int64_t begin, int count, Place place,
                  const Sink& sink) {
  const std::int64_t width = shape.width, half = (width + 1) / 2;
  for (int done = 0; done < count;) {
    const std::int64_t row = 2 * ((begin + done) / half), column = (begin + done) % half;
    const std::int64_t run = std::min<std::int64_t>(half - column, count - done);
    const std::int64_t right_run = std::min(run, width - half - column);  // odd W: one less
    const std::int64_t num_rows = std::min<std::int64_t>(2, shape.height - row);  // odd H: one
    for (std::int64_t r = 0; r < num_rows; ++r) {
      place.offset = (row + r) * width + column;
      sink(place, tile.lane[r] + done, run);
      place.offset += half;
      if (right_run > 0) sink(place, tile.lane[2 + r] + done, right_run);
    }
    done += static_cast<int>(run);
  }
}

// sink(place, normals, count) for all of (P, C, H, W), in parallel over tiles.
template <class Sink>
void for_each_run(const NoiseIdentity& identity, const Shape& shape, int num_threads,
                  const Sink& sink) {
  if (shape.num_elements() == 0) return;
  const std::int64_t quads = shape.quads_per_plane();
  const std::int64_t tiles = (quads + kTileQuads - 1) / kTileQuads;
  const int threads = threads_for(shape.num_elements(), kNoiseGrain, num_threads);
  const Loops& loops = best_loops();
  parallel_for(shape.num_planes() * tiles, threads, [&](std::int64_t unit) {
    const std::int64_t plane = unit / tiles, begin = unit % tiles * kTileQuads;
    const std::int64_t pair = plane / shape.channels, channel = plane % shape.channels;
    const int count = static_cast<int>(std::min<std::int64_t>(kTileQuads, quads - begin));
    Words first = counter_of(identity, pair, channel);
    first.x = static_cast<std::uint32_t>(begin);
    Tile tile;
    loops.fill_tile(first, identity.key, count, tile);
    scatter_rows(tile, shape, begin, count, {pair, channel, plane, 0}, sink);
  });
}

}  // namespace

void philox_integers(const NoiseIdentity& identity, const Shape& shape, std::uint32_t* words) {
  const std::int64_t quads = shape.quads_per_plane(), stride = shape.num_planes() * quads;
  for (std::int64_t plane = 0; plane < shape.num_planes(); ++plane) {
    Words counter = counter_of(identity, plane / shape.channels, plane % shape.channels);
    for (std::int64_t quad = 0; quad < quads; ++quad) {
      counter.x = static_cast<std::uint32_t>(quad);
      const Words r = philox4x32(counter, identity.key);
      std::uint32_t* out = words + plane * quads + quad;
      out[0] = r.x, out[stride] = r.y, out[2 * stride] = r.z, out[3 * stride] = r.w;
    }
  }
}

void gaussian_noise(const NoiseIdentity& identity, const Shape& shape, float* out,
                    int num_threads) {
  const std::int64_t size = shape.plane_size();
  for_each_run(identity, shape, num_threads,
               [=](const Place& place, const float* eps, std::int64_t count) {
                 float* run = out + place.plane * size + place.offset;
                 std::memcpy(run, eps, static_cast<std::size_t>(count) * sizeof(float));
               });
}

void langevin_noise(const NoiseIdentity& identity, const Shape& shape, const float* z,
                    PerPair scale, float* out, int num_threads) {
  const std::int64_t size = shape.plane_size();
  for_each_run(identity, shape, num_threads,
               [=](const Place& place, const float* eps, std::int64_t count) {
                 const std::int64_t at = place.plane * size + place.offset;
                 langevin_row(z + at, scale.of(place.pair), eps, count, out + at);
               });
}

void reverse_step(const NoiseIdentity& identity, const Shape& shape, const float* x0_hat,
                  const float* x_t, const ReverseStep& step, float* out, int num_threads) {
  const std::int64_t size = shape.plane_size();
  for_each_run(identity, shape, num_threads,
               [=](const Place& place, const float* eps, std::int64_t count) {
                 const std::int64_t at = place.plane * size + place.offset;
                 reverse_row(x0_hat + at, x_t + at, step, eps, count, out + at);
               });
}

void masked_prox_noise(const NoiseIdentity& identity, const Shape& shape, const InnerStep& step,
                       const MaskedData& data, int num_threads) {
  const std::int64_t size = shape.plane_size();
  for_each_run(identity, shape, num_threads,
               [&](const Place& place, const float* eps, std::int64_t count) {
                 const std::int64_t at = place.plane * size + place.offset;
                 const float* v = step.x + at;
                 float anchors[kTileQuads];
                 if (step.x_t != nullptr) {
                   const float weight = step.x_weight.of(place.pair);
                   combine_row(v, step.x_t + at, weight, count, anchors);
                   v = anchors;
                 }
                 const float* mask = data.mask.plane(place.pair, place.channel) + place.offset;
                 const float* y = data.y.plane(place.pair, place.channel) + place.offset;
                 masked_prox_noise_row(v, mask, y, data.gamma.of(place.pair),
                                       step.scale.of(place.pair), eps, count, step.out + at);
               });
}

void kspace_unpack(const NoiseIdentity& identity, const Shape& shape, const float* image,
                   PerPair scale, float* out, int num_threads) {
  const std::int64_t size = shape.plane_size(), height = shape.height, width = shape.width;
  const std::int64_t half = width / 2;
  bool silent = true;
  for (std::int64_t pair = 0; pair < shape.pairs; ++pair) silent &= scale.of(pair) == 0.0f;
  if (silent) return kspace_parts(shape, image, out, num_threads);
  for_each_run(identity, shape, num_threads,
               [=](const Place& place, const float* eps, std::int64_t count) {
                 const std::int64_t row = place.offset / width, column = place.offset % width;
                 const std::int64_t from = (row + height - height / 2) % height * width;
                 const float* part = image + 2 * (place.pair * size + from) + place.channel;
                 float* run = out + place.plane * size + place.offset;
                 const float amplitude = scale.of(place.pair);
                 // Columns before the middle come from the end of the row.
                 const std::int64_t before = std::clamp<std::int64_t>(half - column, 0, count);
                 part_with_noise_row(part + 2 * (column + width - half), amplitude, eps, before,
                                     run);
                 part_with_noise_row(part + 2 * (column + before - half), amplitude, eps + before,
                                     count - before, run + before);
               });
}

void fourier_prox_noise(const NoiseIdentity& identity, const Shape& shape, const InnerStep& step,
                        const FourierData& data, const Loops& loops, int num_threads) {
  const FourierMiddle middle(shape, data, loops);
  SpectralStep<FourierMiddle>(identity, shape, step, middle, loops).run(num_threads);
}

bool has_own_alias_loops(std::int64_t height, std::int64_t width, std::int64_t factor) {
  const bool own = fft::is_own_side(height) && fft::is_own_side(width);
  const bool power_of_two = factor >= 2 && (factor & (factor - 1)) == 0;
  return own && power_of_two && factor <= height && 16 * factor <= width;
}

void alias_prox_noise(const NoiseIdentity& identity, const Shape& shape, const InnerStep& step,
                      const AliasData& data, const Loops& loops, int num_threads) {
  const AliasMiddle middle(shape, data, loops);
  SpectralStep<AliasMiddle>(identity, shape, step, middle, loops).run(num_threads);
}

}  // namespace latino::cpu
