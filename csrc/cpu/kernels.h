// Entry points of the native CPU path, on raw pointers to contiguous float32 arrays.
//
// Nothing is checked here: the binding does that. An output may be the very array of an input, and
// must otherwise not overlap one. `num_threads` is an upper bound; small problems use one thread.
#pragma once

#include <cstdint>

#include "latino/philox.h"
#include "latino/pointwise.h"

namespace latino::cpu {

struct Shape {  // (P, C, H, W)
  std::int64_t pairs, channels, height, width;
  std::int64_t plane_size() const { return height * width; }
  std::int64_t num_planes() const { return pairs * channels; }
  std::int64_t num_elements() const { return num_planes() * plane_size(); }
  std::int64_t quads_per_plane() const { return ((height + 1) / 2) * ((width + 1) / 2); }
};

// Whose noise it is, or no ids where the scale of the noise is 0: counter = (quad, channel + 1024 image, sample, step), key = seed.
struct NoiseIdentity {
  PhiloxKey key;
  const std::uint32_t* image_ids;   // (P,)
  const std::uint32_t* sample_ids;  // (P,)
  std::uint32_t step;
};

inline Words counter_of(const NoiseIdentity& identity, std::int64_t pair, std::int64_t channel) {
  constexpr std::uint32_t kChannels = 1024;
  return {0, static_cast<std::uint32_t>(channel) + kChannels * identity.image_ids[pair],
          identity.sample_ids[pair], identity.step};
}

// One float for each pair (stride 1) or one for all (stride 0).
struct PerPair {
  const float* data;
  std::int64_t stride;
  float of(std::int64_t pair) const { return data[pair * stride]; }
};

// Planes (P|1, C|1, H, W) read as (P, C, H, W): a stride is 0 along a broadcast axis.
struct Broadcast {
  const float* data;
  std::int64_t pair_stride, channel_stride;
  const float* plane(std::int64_t pair, std::int64_t channel) const {
    return data + pair * pair_stride + channel * channel_stride;
  }
};

// words (4, P, C, quads): the integers behind the normals, for tests.
void philox_integers(const NoiseIdentity& identity, const Shape& shape, std::uint32_t* words);

// out = eps
void gaussian_noise(const NoiseIdentity& identity, const Shape& shape, float* out, int num_threads);

// out = z + scale eps
void langevin_noise(const NoiseIdentity& identity, const Shape& shape, const float* z,
                    PerPair scale, float* out, int num_threads);

// out = x0_hat + sigma_next (kept (x_t - x0_hat) + renewed eps)
void reverse_step(const NoiseIdentity& identity, const Shape& shape, const float* x0_hat,
                  const float* x_t, const ReverseStep& step, float* out, int num_threads);

// The data step of a mask, out = (gamma m y + v) / (gamma m + 1); y is not used where m = 0.
struct MaskedProx {
  const float* v;
  Broadcast mask, y;
  PerPair gamma;
};

void masked_prox(const Shape& shape, const MaskedProx& prox, float* out, int num_threads);

// What every inner step has: the anchor x_weight x + (1 - x_weight) x_t, or x where x_t is null,
// and scale eps behind the data step. `out` may be x or x_t.
struct InnerStep {
  const float *x, *x_t;
  PerPair x_weight, scale;
  float* out;
};

// A circular convolution: |h|^2 and conj(h) Y, (P|1, C|1, H, W/2 + 1), the complex one with strides
// in floats. H and W are own sides of latino/fft_plan.h.
struct FourierData {
  Broadcast power, back_projected;
  PerPair gamma;
};

struct Loops;  // loops.h

void fourier_prox_noise(const NoiseIdentity& identity, const Shape& shape, const InnerStep& step,
                        const FourierData& data, const Loops& loops, int num_threads);

// Convolution, then every factor-th pixel: h and conj(h) tile(Y), complex (P|1, C|1, H, W), and
// fold(|h|^2), (P|1, C|1, H/s, W/s). H and W are own sides, s is a power of two from 2 to
// min(H, W/16).
struct AliasData {
  Broadcast h, folded_power, back_projected;
  PerPair gamma;
  int factor;
};

bool has_own_alias_loops(std::int64_t height, std::int64_t width, std::int64_t factor);

void alias_prox_noise(const NoiseIdentity& identity, const Shape& shape, const InnerStep& step,
                      const AliasData& data, const Loops& loops, int num_threads);

// The pixels' data step of an inner step.
struct MaskedData {
  Broadcast mask, y;
  PerPair gamma;
};

void masked_prox_noise(const NoiseIdentity& identity, const Shape& shape, const InnerStep& step,
                       const MaskedData& data, int num_threads);

// For sides that are not our own: spectrum (P, C, H, W/2 + 1) complex, in place,
// V <- (gamma back_projected + V) / (gamma power + 1).
void fourier_combine(const Shape& shape, const FourierData& data, float* spectrum,
                     int num_threads);

// Around fft2 and ifft2 of complex images (P, H, W) that travel as (P, 2, H, W), shape.channels = 2.
// k-space is centred and orthonormal; the shifts are places, no pass of their own.
// image = ifftshift(x_weight x + (1 - x_weight) x_t); of the step only these are read.
void kspace_pack(const Shape& shape, const InnerStep& step, float* image, int num_threads);

// V <- (gamma m sqrt(H W) y + V) / (gamma m + 1), mask (P|1, 1, H, W), y (P|1, 2, H, W).
void kspace_combine(const Shape& shape, const MaskedData& data, float* spectrum, int num_threads);

// out = fftshift(image) + scale eps
void kspace_unpack(const NoiseIdentity& identity, const Shape& shape, const float* image,
                   PerPair scale, float* out, int num_threads);

// out = fftshift(image), in its parts.
void kspace_parts(const Shape& shape, const float* image, float* out, int num_threads);

// ---- The operators' own calls; H and W are own sides but for keep_observed. ----

// h, or conj(h) where conjugate, complex (P|1, C|1, H, W/2 + 1).
struct ProductData {
  Broadcast h;
  bool conjugate;
  float* spectrum;  // (P, C, H, W/2 + 1) complex: the product itself, or null
};

// out = irfft2(h rfft2(x))
void convolve(const Shape& shape, const float* x, const ProductData& data, float* out,
              const Loops& loops, int num_threads);

// data.spectrum = h rfft2(x)
void convolved_spectrum(const Shape& shape, const float* x, const ProductData& data,
                        const Loops& loops, int num_threads);

// out = x where the mask is positive, else 0
void keep_observed(const Shape& shape, const float* x, Broadcast mask, float* out,
                   int num_threads);

// Images (P, 1|2, H, W), one channel being real, and k-space (P, 2, H, W), centred and orthonormal;
// mask (P|1, 1, H, W). What stands in k-space where m = 0 is not used.
void kspace_forward(const Shape& shape, const float* x, Broadcast mask, float* y,
                    const Loops& loops, int num_threads);
void kspace_adjoint(const Shape& shape, const float* y, Broadcast mask, float* out,
                    const Loops& loops, int num_threads);

// The inner step of complex images (P, 2, H, W); identity without ids where all scales are 0.
void kspace_prox_noise(const NoiseIdentity& identity, const Shape& shape, const InnerStep& step,
                       const MaskedData& data, const Loops& loops, int num_threads);

// Welford over `size` entries; mean_out and m2_out may be mean and m2.
struct MomentArrays {
  const float *mean, *m2, *x;
  float *mean_out, *m2_out;
};

void running_moments(std::int64_t size, float count, const MomentArrays& arrays, int num_threads);

}  // namespace latino::cpu
