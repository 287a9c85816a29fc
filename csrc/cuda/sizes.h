// From a size at run time to a template argument, and the bytes behind arrays.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/parameters.h"

namespace latino::cuda {

// Calls visit(std::integral_constant<int, side>).
template <class Visit>
void with_side(int side, Visit visit) {
  switch (side) {
    case 64: return visit(std::integral_constant<int, 64>{});
    case 128: return visit(std::integral_constant<int, 128>{});
    case 256: return visit(std::integral_constant<int, 256>{});
    case 512: return visit(std::integral_constant<int, 512>{});
    case 1024: return visit(std::integral_constant<int, 1024>{});
    case 2048: return visit(std::integral_constant<int, 2048>{});
    default: throw std::logic_error("a side without a kernel: " + std::to_string(side));
  }
}

inline std::int64_t entries(const Shape& shape) {
  return shape.pairs * shape.channels * shape.height * shape.width;
}

inline std::int64_t image_bytes(const void* data, int type, const Shape& shape) {
  return data == nullptr ? 0 : entries(shape) * (type == kFloat32 ? 4 : 2);
}
inline std::int64_t bytes_of(const Image& image, const Shape& shape) {
  return image_bytes(image.data, image.type, shape);
}
inline std::int64_t bytes_of(const Output& image, const Shape& shape) {
  return image_bytes(image.data, image.type, shape);
}

// Each distinct plane counts once.
template <class T>
std::int64_t bytes_of(const Planes<T>& planes, const Shape& shape, std::int64_t plane_size) {
  const std::int64_t pairs = planes.pair_stride == 0 ? 1 : shape.pairs;
  const std::int64_t channels = planes.channel_stride == 0 ? 1 : shape.channels;
  return pairs * channels * plane_size * static_cast<std::int64_t>(sizeof(T));
}

}  // namespace latino::cuda
