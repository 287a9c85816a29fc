// Stands in for the toolkit's header where there is no nvcc: what launchers need, and no kernels.
// NVRTC compiles those at run time; the driver launches them by name (driver_launch.cpp).
#pragma once

#define LATINO_DRIVER_LAUNCH 1

struct alignas(8) float2 {
  float x, y;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using cudaStream_t = void*;
using cudaError_t = int;  // a CUresult
enum : int { cudaSuccess = 0 };

const char* cudaGetErrorString(cudaError_t status);
