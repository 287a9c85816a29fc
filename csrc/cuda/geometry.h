// The shapes of blocks: known to kernels, launchers and, through them, to the tests.
#pragma once

#include "latino/host_device.h"

namespace latino::cuda {

constexpr int kSmallestSide = 64, kLargestSide = 2048;

// Rows or pairs of rows per block: about 128 threads.
LATINO_HD constexpr int rows_per_block(int width) {
  return width >= 1024 ? 1 : width >= 128 ? 1024 / width : 8;
}

// Entries between two row transforms of a block; 64 alone would put them on the same banks.
LATINO_HD constexpr int row_slots(int width) { return width == 64 ? 72 : width; }

// Columns per block: the more, the longer the runs of memory; bounded by threads and by 48 KB.
LATINO_HD constexpr int columns_per_block(int height) {
  return height >= 2048 ? 2 : height >= 1024 ? 4 : height >= 256 ? 8 : 16;
}

// The same for super-resolution; at least the columns of one class of aliases.
LATINO_HD constexpr int alias_columns_per_block(int height, int factor) {
  const int columns = height >= 1024 ? 4 : height >= 512 ? 8 : 16;
  return columns > factor ? columns : factor;
}

constexpr int kQuadThreads = 256, kElementThreads = 256;

LATINO_HD constexpr bool is_own_side(int side) {
  return side >= kSmallestSide && side <= kLargestSide && (side & (side - 1)) == 0;
}

// Sizes that our own transforms take; torch.fft makes all others.
LATINO_HD constexpr bool has_fourier_kernels(int height, int width) {
  return is_own_side(height) && is_own_side(width);
}

LATINO_HD constexpr bool has_alias_kernels(int height, int width, int factor) {
  const bool has_factor = factor == 2 || factor == 4 || (factor == 8 && height <= 512);
  return has_fourier_kernels(height, width) && height <= 1024 && has_factor;
}

}  // namespace latino::cuda
