// The pointwise loops, each compiled for several instruction sets in rows.cpp; see loops.h for the
// heavy ones.
//
// `out` may be an input itself; any other overlap is not allowed.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "latino/pointwise.h"

namespace latino::cpu {

void combine_row(const float* x, const float* x_t, float weight, std::int64_t count, float* out);

void langevin_row(const float* z, float scale, const float* eps, std::int64_t count, float* out);

void reverse_row(const float* x0_hat, const float* x_t, const ReverseStep& step, const float* eps,
                 std::int64_t count, float* out);

// y is not used where m = 0.
void masked_prox_row(const float* v, const float* mask, const float* y, float gamma,
                     std::int64_t count, float* out);

void masked_prox_noise_row(const float* v, const float* mask, const float* y, float gamma,
                           float scale, const float* eps, std::int64_t count, float* out);

// out = x where the mask is positive, else 0
void keep_row(const float* x, const float* mask, std::int64_t count, float* out);

// Interleaved complex numbers: V <- (gamma back_projected + V) / (gamma power + 1).
void fourier_combine_row(const float* power, const float* back_projected, float gamma,
                         std::int64_t count, float* spectrum);

// Complex numbers from their parts, anchors combined if there are states.
struct AnchorParts {
  const float *re, *im, *re_t, *im_t;  // re_t null: there are no states
  float weight;
};

void interleave_row(const AnchorParts& parts, std::int64_t count, float* image);

// The reverse, into arrays apart from the image.
void parts_row(const float* image, std::int64_t count, float* re, float* im);

// V <- (gamma m root y + V) / (gamma m + 1), y in its parts.
void kspace_combine_row(const float* mask, const float* y_re, const float* y_im, float gamma,
                        float root, std::int64_t count, float* spectrum);

// out = part + scale eps, part every second entry.
void part_with_noise_row(const float* part, float scale, const float* eps, std::int64_t count,
                         float* out);

void running_moments_row(const MomentArrays& arrays, float number, std::int64_t begin,
                         std::int64_t end);

}  // namespace latino::cpu
