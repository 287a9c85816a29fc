// Marks a function of the shared mathematics: for the host and, under nvcc, for the device too.
#pragma once

#if defined(__CUDACC__)
#define LATINO_HD __host__ __device__
#else
#define LATINO_HD
#endif
