// The heavy loops as a table of functions, one table for each instruction set (rows.cpp); all give
// the same bits.
#pragma once

#include <cstdint>

#include "latino/fft_plan.h"
#include "latino/philox.h"

namespace latino::cpu {

constexpr int kTileQuads = 512;  // a tile of normals is 8 KiB: it stays in the L1 cache

struct Tile {
  alignas(64) float lane[4][kTileQuads];
};

// The half-spectrum of one plane (H, W), in blocks of columns: (W/2 / L, H, 2, L) with L columns to
// a SIMD register, real parts, then imaginary ones. Column 0 holds DC + i Nyquist, both real after
// the row transform, so that a spectrum has the bytes of its image. Between blocks lies a gap:
// strides of a power of two would meet in a few cache sets.
struct Spectrum {
  float* data;
  std::int64_t block_stride;
  float* block(int index) const { return data + index * block_stride; }
};

constexpr std::int64_t kBlockGap = 32;  // floats

// The two ends of a plane's data step.
struct PlaneRows {
  const fft::Plan* plan;  // of the width
  const float *x, *x_t;   // x_t null: x alone is the anchor
  float x_weight;
  float* out;
  float scale;  // of the noise; counter.x is set row by row
  Words counter;
  PhiloxKey key;
};

// The middle of a plane's data step.
struct FourierColumns {
  const fft::Plan* plan;         // of the height
  const float* power;            // (H, W/2 + 1)
  const float* back_projected;   // (H, W/2 + 1) complex
  std::int64_t pitch;            // W/2 + 1
  float gamma, twice_gamma;      // the row transforms leave a factor of two
  float half_scale;              // 1 / (2 H W)
};

// The middle of a convolution: h V, or conj(h) V where imaginary_scale = -scale.
struct ProductColumns {
  const fft::Plan* plan;
  const float* h;  // (H, W/2 + 1) complex
  std::int64_t pitch;
  float scale, imaginary_scale;  // 1 / (2 H W)
  float* out;                    // the half-spectrum (H, W/2 + 1) itself, complex, or null
};

// The middle of a step in k-space, whose arrays (H, W) have DC in their middle. Blocks hold complex
// images: (W / L, H, 2, L).
struct KspaceColumns {
  enum class Sweep { kToKspace, kFromKspace, kBoth } sweep;
  const fft::Plan* plan;
  int width;
  const float *mask, *y_re, *y_im;  // y is read from k-space on
  float *out_re, *out_im;           // written where the image goes to k-space
  float gamma, root;                // root = sqrt(H W)
  float inverse_scale;              // of a transform there and back, 1 / (H W)

  std::int64_t centred(int k, int column) const {
    const int row = (k + plan->side / 2) & (plan->side - 1);
    return std::int64_t{row} * width + ((column + width / 2) & (width - 1));
  }
};

// The two ends of a step in k-space: real and imaginary parts in planes of their own.
struct ComplexRows {
  const fft::Plan* plan;  // of the width
  const float *re, *im;   // im null: zeros
  const float *re_t, *im_t;  // the second anchor, or null
  float x_weight;
  float *out_re, *out_im;  // out_im null: not wanted
  float scale;             // of the noise
  Words counter_re, counter_im;
  PhiloxKey key;
};

// The middle of a super-resolution step; see alias_columns.h.
struct AliasColumns {
  const fft::Plan* plan;        // of the height
  int width, factor;            // W / factor is at least 16
  const float* h;               // (H, W) complex
  const float* back_projected;  // (H, W) complex
  const float* folded_power;    // (H / s, W / s)
  float gamma, twice_gamma, half_scale;
  float* fold;     // (H / s, 2, fold_pitch): h b added up over the aliases of a row
  float* inner;    // (2, H / s, W / s)
  float* nyquist;  // (2, H): the Nyquist column of b

  std::int64_t fold_pitch() const { return width / 2 + 16; }
  float* fold_re(int row) const { return fold + 2 * row * fold_pitch(); }
  float* fold_im(int row) const { return fold_re(row) + fold_pitch(); }
};

struct Loops {
  const char* name;  // of the instruction set
  int lanes;         // floats in a register: the columns of a block, at most W/2
  // The normals of `count` consecutive quads from the quad first.x on.
  void (*fill_tile)(Words first, PhiloxKey key, int count, Tile& tile);
  // Anchors combined and rows 2 pair, 2 pair + 1 transformed, for pair in [begin, end).
  void (*forward_rows)(const PlaneRows&, const Spectrum&, int begin, int end);
  // One block: transform, data step, inverse transform.
  void (*fourier_columns)(const FourierColumns&, const Spectrum&, int block);
  void (*alias_forward)(const AliasColumns&, const Spectrum&, int block);
  void (*alias_fold)(const AliasColumns&, int begin, int end);
  void (*alias_inverse)(const AliasColumns&, const Spectrum&, int block);
  // Rows transformed back, noise added.
  void (*inverse_rows)(const PlaneRows&, const Spectrum&, int begin, int end);
  // As fourier_columns, for a product with h.
  void (*product_columns)(const ProductColumns&, const Spectrum&, int block);
  // One block transformed and its product with h stored as a half-spectrum.
  void (*spectrum_columns)(const ProductColumns&, const Spectrum&, int block);
  // Complex images: two rows at a time, and one block of columns.
  void (*complex_forward_rows)(const ComplexRows&, const Spectrum&, int begin, int end);
  void (*kspace_columns)(const KspaceColumns&, const Spectrum&, int block);
  void (*complex_inverse_rows)(const ComplexRows&, const Spectrum&, int begin, int end);
};

// Of the machine at hand; the widest first.
constexpr int kMaxTargets = 3;
int usable_targets(const Loops* (&tables)[kMaxTargets]);

inline const Loops& best_loops() {
  static const Loops* const best = [] {
    const Loops* tables[kMaxTargets];
    usable_targets(tables);
    return tables[0];
  }();
  return *best;
}

}  // namespace latino::cpu
