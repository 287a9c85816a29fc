// Kernels with one fault each, and two without: what the shim must notice and what it must not.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "cuda/step.cuh"

namespace {

struct Floats {
  float* out;
};

__global__ void different_barriers(Floats p) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    p.out[threadIdx.x] = 1.0f;
    __syncthreads();
  }
}

__global__ void missing_threads(Floats p) {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    __syncthreads();
  }
  p.out[0] = 1.0f;
}

__global__ void early_return(Floats p) {
  if (threadIdx.x == 3) return;
  __syncthreads();
  p.out[threadIdx.x] = 1.0f;
}

__global__ void shared_overrun(Floats p) {
  latino::cuda::dynamic_shared<float>()[blockDim.x] = 1.0f;
  p.out[threadIdx.x] = 1.0f;
}

__global__ void unwritten_shared(Floats p) {
  p.out[threadIdx.x] = latino::cuda::dynamic_shared<float>()[threadIdx.x];
}

__global__ void mask_names_others(Floats p) {
  float value = static_cast<float>(threadIdx.x);
  if (threadIdx.x < 16) value = __shfl_xor_sync(0xFFFFFFFFu, value, 1);
  p.out[threadIdx.x] = value;
}

// The sum of a warp without a barrier, as it was written before Volta.
__global__ void lockstep_sum(Floats p) {
  volatile float* shared = latino::cuda::dynamic_shared<float>();
  const unsigned t = threadIdx.x;
  shared[t] = 1.0f;
  __syncthreads();
  for (unsigned d = 16; d > 0; d /= 2) {
    if (t < d) shared[t] = shared[t] + shared[t + d];
  }
  __syncthreads();
  p.out[t] = shared[0];
}

__global__ void barrier_sum(Floats p) {
  volatile float* shared = latino::cuda::dynamic_shared<float>();
  const unsigned t = threadIdx.x;
  shared[t] = 1.0f;
  __syncthreads();
  for (unsigned d = 16; d > 0; d /= 2) {
    if (t < d) shared[t] = shared[t] + shared[t + d];
    __syncthreads();
  }
  p.out[t] = shared[0];
}

// Sums in each half of a warp, and how many lanes of the half are odd: 8.
__global__ void half_warps(Floats p) {
  float value = static_cast<float>(threadIdx.x);
  const unsigned mask = threadIdx.x % 32 < 16 ? 0xFFFFu : 0xFFFF0000u;
  for (int d = 8; d > 0; d /= 2) value += __shfl_xor_sync(mask, value, d, 16);
  p.out[threadIdx.x] = value + static_cast<float>(__popc(__ballot_sync(mask, threadIdx.x & 1)));
}

std::vector<float> run(const std::string& name) {
  const std::map<std::string, void (*)(Floats)> kernels = {
      {"different_barriers", different_barriers}, {"missing_threads", missing_threads},
      {"early_return", early_return},             {"shared_overrun", shared_overrun},
      {"unwritten_shared", unwritten_shared},     {"mask_names_others", mask_names_others},
      {"lockstep_sum", lockstep_sum},             {"barrier_sum", barrier_sum},
      {"half_warps", half_warps}};
  std::vector<float> out(32, 0.0f);
  Floats parameters{out.data()};
  void* arguments[] = {&parameters};
  cudaLaunchKernel(kernels.at(name), dim3(1), dim3(32), arguments, 32 * sizeof(float), nullptr);
  return out;
}

}  // namespace

void define_faults(pybind11::module_& m) {
  m.def("run_fault", &run, "A kernel of faults.cu on 32 threads: its 32 results.");
}
