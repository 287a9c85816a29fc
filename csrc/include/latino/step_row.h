// The scalars of a sampler step, 16 bytes, as they lie in a table on the device.
//
// A table has shape (steps, P|1); a counter on the device says which of its rows is next. Scalars
// in kernel arguments would be frozen by a CUDA graph: with a table one graph serves every step.
#pragma once

#include <cstdint>

namespace latino {

// An inner step: anchor x_weight x + (1 - x_weight) x_t, data step with gamma, then scale eps.
struct alignas(16) StepRow {
  float x_weight, gamma, scale;
  std::uint32_t noise_step;
};

// A reverse step: x0 + sigma_next (kept (x_t - x0) + renewed eps).
struct alignas(16) ReverseRow {
  float sigma_next, kept, renewed;
  std::uint32_t noise_step;
};

static_assert(sizeof(StepRow) == 16 && sizeof(ReverseRow) == 16, "rows share one table layout");

}  // namespace latino
