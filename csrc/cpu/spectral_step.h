// Inner steps whose data step is solved by transforms: rows forward, phases of columns, rows back.
//
// As many planes as there are threads travel side by side, each in the cache of its core; the
// planes that are left over are shared by all threads, phase by phase.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "cpu/parallel.h"
#include "cpu/workspace.h"
#include "latino/fft_plan.h"

namespace latino::cpu {

constexpr std::int64_t kSpectralGrain = 1 << 14;  // pixels per thread, some 50 microseconds
constexpr int kRowPairsPerUnit = 8, kFoldRowsPerUnit = 16;

// How a plane's spectrum lies in memory.
struct SpectrumLayout {
  int block, num_blocks;  // columns to a block
  std::int64_t block_stride;

  SpectrumLayout(const Shape& shape, const Loops& loops)
      : block(static_cast<int>(std::min<std::int64_t>(loops.lanes, shape.width / 2))),
        num_blocks(static_cast<int>(shape.width / 2 / block)),
        block_stride(2 * block * shape.height + kBlockGap) {}
  std::int64_t size() const { return num_blocks * block_stride; }
};

// One plane on its way through the columns.
struct PlaneColumns {
  std::int64_t pair, channel;
  Spectrum spectrum;
  float* extra;  // scratch after the spectrum
};

// What the data steps differ in: a number of phases, each of independent units.
class FourierMiddle {
 public:
  FourierMiddle(const Shape& shape, const FourierData& data, const Loops& loops)
      : shape_(shape), data_(data), loops_(loops), layout_(shape, loops) {}

  static constexpr int kNumPhases = 1;
  static constexpr bool kRowsBack = true;
  std::int64_t extra_size() const { return 0; }
  int num_units(int) const { return layout_.num_blocks; }

  void run(int, const PlaneColumns& at, int unit) const {
    const float gamma = data_.gamma.of(at.pair);
    const double size = static_cast<double>(shape_.plane_size());
    const FourierColumns columns{&fft::plan_of(shape_.height),
                                 data_.power.plane(at.pair, at.channel),
                                 data_.back_projected.plane(at.pair, at.channel),
                                 shape_.width / 2 + 1,
                                 gamma,
                                 2.0f * gamma,
                                 static_cast<float>(0.5 / size)};
    loops_.fourier_columns(columns, at.spectrum, unit);
  }

 private:
  const Shape& shape_;
  const FourierData& data_;
  const Loops& loops_;
  SpectrumLayout layout_;
};

// A convolution, or the spectrum of one: then no rows come back.
template <bool kRows>
class ProductMiddle {
 public:
  ProductMiddle(const Shape& shape, const ProductData& data, const Loops& loops)
      : shape_(shape), data_(data), loops_(loops), layout_(shape, loops) {}

  static constexpr int kNumPhases = 1;
  static constexpr bool kRowsBack = kRows;
  std::int64_t extra_size() const { return 0; }
  int num_units(int) const { return layout_.num_blocks; }

  void run(int, const PlaneColumns& at, int unit) const {
    const std::int64_t half = shape_.width / 2 + 1;
    const double size = kRows ? static_cast<double>(shape_.plane_size()) : 1.0;
    const float scale = static_cast<float>(0.5 / size);
    const std::int64_t plane = at.pair * shape_.channels + at.channel;
    const ProductColumns columns{&fft::plan_of(shape_.height),
                                 data_.h.plane(at.pair, at.channel),
                                 half,
                                 scale,
                                 data_.conjugate ? -scale : scale,
                                 kRows ? nullptr : data_.spectrum + 2 * plane * half * shape_.height};
    if constexpr (kRows) {
      loops_.product_columns(columns, at.spectrum, unit);
    } else {
      loops_.spectrum_columns(columns, at.spectrum, unit);
    }
  }

 private:
  const Shape& shape_;
  const ProductData& data_;
  const Loops& loops_;
  SpectrumLayout layout_;
};

class AliasMiddle {
 public:
  AliasMiddle(const Shape& shape, const AliasData& data, const Loops& loops)
      : shape_(shape), data_(data), loops_(loops), layout_(shape, loops),
        kept_rows_(static_cast<int>(shape.height) / data.factor) {}

  static constexpr int kNumPhases = 3;
  static constexpr bool kRowsBack = true;

  std::int64_t extra_size() const {
    return fold_size() + 2 * kept_rows_ * (shape_.width / data_.factor) + 2 * shape_.height;
  }

  int num_units(int phase) const {
    if (phase != 1) return layout_.num_blocks;
    return (kept_rows_ + kFoldRowsPerUnit - 1) / kFoldRowsPerUnit;
  }

  void run(int phase, const PlaneColumns& at, int unit) const {
    const AliasColumns columns = columns_of(at);
    if (phase == 0) {
      loops_.alias_forward(columns, at.spectrum, unit);
    } else if (phase == 1) {
      const int begin = unit * kFoldRowsPerUnit;
      loops_.alias_fold(columns, begin, std::min(kept_rows_, begin + kFoldRowsPerUnit));
    } else {
      loops_.alias_inverse(columns, at.spectrum, unit);
    }
  }

 private:
  std::int64_t fold_size() const { return 2 * kept_rows_ * (shape_.width / 2 + 16); }

  AliasColumns columns_of(const PlaneColumns& at) const {
    const float gamma = data_.gamma.of(at.pair);
    const double size = static_cast<double>(shape_.plane_size());
    float* const inner = at.extra + fold_size();
    return {&fft::plan_of(shape_.height),
            static_cast<int>(shape_.width),
            data_.factor,
            data_.h.plane(at.pair, at.channel),
            data_.back_projected.plane(at.pair, at.channel),
            data_.folded_power.plane(at.pair, at.channel),
            gamma,
            2.0f * gamma,
            static_cast<float>(0.5 / size),
            at.extra,
            inner,
            inner + 2 * kept_rows_ * (shape_.width / data_.factor)};
  }

  const Shape& shape_;
  const AliasData& data_;
  const Loops& loops_;
  SpectrumLayout layout_;
  int kept_rows_;
};

template <class Middle>
class SpectralStep {
 public:
  SpectralStep(const NoiseIdentity& identity, const Shape& shape, const InnerStep& step,
               const Middle& middle, const Loops& loops)
      : identity_(identity), shape_(shape), step_(step), middle_(middle), loops_(loops),
        layout_(shape, loops), rows_(fft::plan_of(shape.width)),
        num_pairs_(static_cast<int>(shape.height / 2)) {}

  void run(int num_threads) const {
    const std::int64_t planes = shape_.num_planes();
    if (planes == 0) return;
    const int threads = threads_for(shape_.num_elements(), kSpectralGrain, num_threads);
    const std::int64_t rounds = planes / threads, shared = planes % threads;
    const std::int64_t most = rounds > 0 ? threads : shared;
    const Scratch scratch(static_cast<std::size_t>(most * scratch_size()));
    parallel_for(rounds > 0 ? threads : 0, threads, [&](std::int64_t thread) {
      for (std::int64_t i = 0; i < rounds; ++i) {
        run_plane(thread * rounds + i, scratch.data() + thread * scratch_size());
      }
    });
    if (shared > 0) run_together(rounds * threads, shared, scratch.data(), threads);
  }

 private:
  std::int64_t scratch_size() const { return layout_.size() + middle_.extra_size(); }

  PlaneColumns columns_of(std::int64_t plane, float* scratch) const {
    return {plane / shape_.channels, plane % shape_.channels, {scratch, layout_.block_stride},
            scratch + layout_.size()};
  }

  PlaneRows rows_of(std::int64_t plane) const {
    const std::int64_t pair = plane / shape_.channels, channel = plane % shape_.channels;
    const std::int64_t at = plane * shape_.plane_size();
    return {&rows_,
            step_.x + at,
            step_.x_t == nullptr ? nullptr : step_.x_t + at,
            step_.x_weight.of(pair),
            Middle::kRowsBack ? step_.out + at : nullptr,
            step_.scale.of(pair),
            identity_.image_ids == nullptr ? Words{} : counter_of(identity_, pair, channel),
            identity_.key};
  }

  void run_plane(std::int64_t plane, float* scratch) const {
    const PlaneColumns columns = columns_of(plane, scratch);
    loops_.forward_rows(rows_of(plane), columns.spectrum, 0, num_pairs_);
    for (int phase = 0; phase < Middle::kNumPhases; ++phase) {
      for (int unit = 0; unit < middle_.num_units(phase); ++unit) {
        middle_.run(phase, columns, unit);
      }
    }
    if constexpr (Middle::kRowsBack) {
      loops_.inverse_rows(rows_of(plane), columns.spectrum, 0, num_pairs_);
    }
  }

  // The planes [first, first + count), every phase split over all threads.
  void run_together(std::int64_t first, std::int64_t count, float* scratch, int threads) const {
    const auto columns = [&](std::int64_t i) {
      return columns_of(first + i, scratch + i * scratch_size());
    };
    const auto all_rows = [&](auto loop) {
      const int parts = (num_pairs_ + kRowPairsPerUnit - 1) / kRowPairsPerUnit;
      parallel_for(count * parts, threads, [&](std::int64_t unit) {
        const int begin = static_cast<int>(unit % parts) * kRowPairsPerUnit;
        loop(rows_of(first + unit / parts), columns(unit / parts).spectrum, begin,
             std::min(num_pairs_, begin + kRowPairsPerUnit));
      });
    };
    all_rows(loops_.forward_rows);
    for (int phase = 0; phase < Middle::kNumPhases; ++phase) {
      const int units = middle_.num_units(phase);
      parallel_for(count * units, threads, [&](std::int64_t unit) {
        middle_.run(phase, columns(unit / units), static_cast<int>(unit % units));
      });
    }
    if constexpr (Middle::kRowsBack) all_rows(loops_.inverse_rows);
  }

  const NoiseIdentity& identity_;
  const Shape& shape_;
  const InnerStep& step_;
  const Middle& middle_;
  const Loops& loops_;
  SpectrumLayout layout_;
  const fft::Plan& rows_;
  int num_pairs_;
};

}  // namespace latino::cpu
