// Splits independent units of work over OpenMP threads; a plain loop without OpenMP.
//
// No result depends on the number of threads: every unit writes its own part of the output.
#pragma once

#include <algorithm>
#include <cstdint>

namespace latino::cpu {

// At least `grain` elements per thread: waking a thread costs some ten microseconds.
inline int threads_for(std::int64_t elements, std::int64_t grain, int num_threads) {
  return static_cast<int>(
      std::clamp<std::int64_t>(elements / grain, 1, std::max(1, num_threads)));
}

// body(unit) for every unit in [0, units); body must not throw.
template <class Body>
void parallel_for(std::int64_t units, int num_threads, const Body& body) {
  if (num_threads <= 1) {  // stays outside OpenMP, hence safe in a forked child
    for (std::int64_t unit = 0; unit < units; ++unit) body(unit);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(num_threads)
  for (std::int64_t unit = 0; unit < units; ++unit) body(unit);
}

}  // namespace latino::cpu
