// What the kernels are given: plain structures, passed by value, one for each kernel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "latino/image_types.h"
#include "latino/philox.h"
#include "latino/step_row.h"

namespace latino::cuda {

struct Image {
  const void* data;  // null: there is none
  int type;          // ImageType
};

struct Output {
  void* data;
  int type;  // ImageType
};

// Planes (P|1, C|1, ...) read as (P, C, ...): a stride, in entries, is 0 along a broadcast axis.
template <class T>
struct Planes {
  const T* data;
  std::int64_t pair_stride, channel_stride;
};

// A table of rows (num_steps, num_pairs), num_pairs 1 or P, and the three words of its counter:
// next row, blocks that have arrived, and whether a step beyond the table was asked for.
struct Steps {
  const void* rows;  // StepRow or ReverseRow
  std::uint32_t* counter;
  int num_steps, num_pairs;
};

// counter = (quad, channel + 1024 image, sample, step), key = seed: on the device where key_at is
// not null, so that a captured graph can be replayed with another seed.
struct Noise {
  PhiloxKey key;
  const PhiloxKey* key_at;
  const std::int64_t* image_ids;   // (P,)
  const std::int64_t* sample_ids;  // (P,)
};

struct Shape {  // (P, C, H, W)
  std::int64_t pairs;
  int channels, height, width;
};

// Rows of real images to and from packed spectra (P, C, H, W/2): column 0 holds DC + i Nyquist,
// both of which are real after a row transform, so that a spectrum has the bytes of its image.
struct FourierRows {
  Image x, x_t;
  Output out;
  float2* spectrum;
  Steps steps;
  Noise noise;
  Shape shape;
};

struct FourierColumns {
  float2* spectrum;
  Planes<float> power;            // (P|1, C|1, H, W/2 + 1)
  Planes<float2> back_projected;  // (P|1, C|1, H, W/2 + 1)
  Steps steps;
  Shape shape;
};

struct AliasColumns {
  float2* spectrum;
  Planes<float2> h;               // (P|1, C|1, H, W)
  Planes<float> folded_power;     // (P|1, C|1, H/s, W/s)
  Planes<float2> back_projected;  // (P|1, C|1, H, W)
  Steps steps;
  Shape shape;
  int factor;
};

// Complex images as two channels; spectra (P, H, W).
struct KSpace {
  Image x, x_t;
  Output out;
  float2* spectrum;
  Planes<float> mask;  // (P|1, 1, H, W), DC in the middle
  Planes<float> y;     // (P|1, 2, H, W), DC in the middle
  Steps steps;
  Noise noise;
  Shape shape;
};

// The pointwise operations with noise; each uses what it needs.
struct Quads {
  Image x, x_t;
  Planes<float> mask, y;
  Output out;
  Steps steps;
  Noise noise;
  Shape shape;
};

struct Anchors {
  Image x, x_t;
  float* out;
  Steps steps;
  Shape shape;
};

}  // namespace latino::cuda
