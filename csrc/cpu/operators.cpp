// The operators' own calls: convolutions, and images to k-space and back.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "cpu/parallel.h"
#include "cpu/spectral_step.h"
#include "cpu/workspace.h"
#include "latino/fft_plan.h"

namespace latino::cpu {

namespace {

constexpr float kNoNoise = 0.0f, kOneAnchor = 1.0f;

template <bool kRows>
void run_product(const Shape& shape, const float* x, const ProductData& data, float* out,
                 const Loops& loops, int num_threads) {
  const NoiseIdentity nobody{};
  const InnerStep step{x, nullptr, {&kOneAnchor, 0}, {&kNoNoise, 0}, out};
  const ProductMiddle<kRows> middle(shape, data, loops);
  SpectralStep<ProductMiddle<kRows>>(nobody, shape, step, middle, loops).run(num_threads);
}

// Complex images one after the other, each phase split over all threads.
class KspaceStep {
 public:
  using Sweep = KspaceColumns::Sweep;

  KspaceStep(const Shape& shape, const Loops& loops, int num_threads)
      : shape_(shape), loops_(loops), rows_(fft::plan_of(shape.width)),
        block_(static_cast<int>(std::min<std::int64_t>(loops.lanes, shape.width / 2))),
        num_blocks_(static_cast<int>(shape.width / block_)),
        block_stride_(2 * block_ * shape.height + kBlockGap),
        threads_(threads_for(shape.pairs * shape.plane_size() * 2, kSpectralGrain, num_threads)) {}

  // rows(pair) -> ComplexRows, columns(pair) -> KspaceColumns.
  template <class Rows, class Columns>
  void run(const Rows& rows, const Columns& columns) const {
    if (shape_.num_elements() == 0) return;
    const Scratch scratch(static_cast<std::size_t>(num_blocks_ * block_stride_));
    const Spectrum spectrum{scratch.data(), block_stride_};
    for (std::int64_t pair = 0; pair < shape_.pairs; ++pair) {
      const ComplexRows image = rows(pair);
      KspaceColumns step = columns(pair);
      const float size = static_cast<float>(shape_.plane_size());
      step.plan = &fft::plan_of(shape_.height);
      step.width = static_cast<int>(shape_.width);
      step.root = std::sqrt(size);
      step.inverse_scale = 1.0f / size;
      if (step.sweep != Sweep::kFromKspace) all_rows(loops_.complex_forward_rows, image, spectrum);
      parallel_for(num_blocks_, threads_, [&](std::int64_t block) {
        loops_.kspace_columns(step, spectrum, static_cast<int>(block));
      });
      if (step.sweep != Sweep::kToKspace) all_rows(loops_.complex_inverse_rows, image, spectrum);
    }
  }

  ComplexRows rows() const {
    ComplexRows image{};
    image.plan = &rows_;
    return image;
  }

 private:
  template <class Loop>
  void all_rows(const Loop& loop, const ComplexRows& image, const Spectrum& spectrum) const {
    const int pairs = static_cast<int>(shape_.height / 2);
    const int parts = (pairs + kRowPairsPerUnit - 1) / kRowPairsPerUnit;
    parallel_for(parts, threads_, [&](std::int64_t part) {
      const int begin = static_cast<int>(part) * kRowPairsPerUnit;
      loop(image, spectrum, begin, std::min(pairs, begin + kRowPairsPerUnit));
    });
  }

  const Shape& shape_;
  const Loops& loops_;
  const fft::Plan& rows_;
  int block_, num_blocks_;
  std::int64_t block_stride_;
  int threads_;
};

}  // namespace

void convolve(const Shape& shape, const float* x, const ProductData& data, float* out,
              const Loops& loops, int num_threads) {
  run_product<true>(shape, x, data, out, loops, num_threads);
}

void convolved_spectrum(const Shape& shape, const float* x, const ProductData& data,
                        const Loops& loops, int num_threads) {
  run_product<false>(shape, x, data, nullptr, loops, num_threads);
}

void kspace_forward(const Shape& shape, const float* x, Broadcast mask, float* y,
                    const Loops& loops, int num_threads) {
  const std::int64_t size = shape.plane_size();
  const KspaceStep step(shape, loops, num_threads);
  step.run(
      [&](std::int64_t pair) {
        ComplexRows image = step.rows();
        image.re = x + pair * shape.channels * size;
        image.im = shape.channels == 2 ? image.re + size : nullptr;
        return image;
      },
      [&](std::int64_t pair) {
        KspaceColumns columns{};
        columns.sweep = KspaceColumns::Sweep::kToKspace;
        columns.mask = mask.plane(pair, 0);
        columns.out_re = y + 2 * pair * size;
        columns.out_im = columns.out_re + size;
        return columns;
      });
}

void kspace_adjoint(const Shape& shape, const float* y, Broadcast mask, float* out,
                    const Loops& loops, int num_threads) {
  const std::int64_t size = shape.plane_size();
  const KspaceStep step(shape, loops, num_threads);
  step.run(
      [&](std::int64_t pair) {
        ComplexRows image = step.rows();
        image.out_re = out + pair * shape.channels * size;
        image.out_im = shape.channels == 2 ? image.out_re + size : nullptr;
        return image;
      },
      [&](std::int64_t pair) {
        KspaceColumns columns{};
        columns.sweep = KspaceColumns::Sweep::kFromKspace;
        columns.mask = mask.plane(pair, 0);
        columns.y_re = y + 2 * pair * size;
        columns.y_im = columns.y_re + size;
        return columns;
      });
}

void kspace_prox_noise(const NoiseIdentity& identity, const Shape& shape, const InnerStep& step,
                       const MaskedData& data, const Loops& loops, int num_threads) {
  const std::int64_t size = shape.plane_size();
  const KspaceStep both(shape, loops, num_threads);
  both.run(
      [&](std::int64_t pair) {
        const std::int64_t at = 2 * pair * size;
        ComplexRows image = both.rows();
        image.re = step.x + at;
        image.im = image.re + size;
        image.re_t = step.x_t == nullptr ? nullptr : step.x_t + at;
        image.im_t = step.x_t == nullptr ? nullptr : step.x_t + at + size;
        image.x_weight = step.x_weight.of(pair);
        image.out_re = step.out + at;
        image.out_im = image.out_re + size;
        image.scale = step.scale.of(pair);
        if (identity.image_ids != nullptr) {
          image.counter_re = counter_of(identity, pair, 0);
          image.counter_im = counter_of(identity, pair, 1);
        }
        image.key = identity.key;
        return image;
      },
      [&](std::int64_t pair) {
        KspaceColumns columns{};
        columns.sweep = KspaceColumns::Sweep::kBoth;
        columns.mask = data.mask.plane(pair, 0);
        columns.y_re = data.y.plane(pair, 0);
        columns.y_im = data.y.plane(pair, 1);
        columns.gamma = data.gamma.of(pair);
        return columns;
      });
}

}  // namespace latino::cpu
