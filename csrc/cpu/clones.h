// LATINO_CLONES: one function compiled for several x86 instruction sets, chosen when the library is
// loaded (ifunc: g++ and glibc only). Everywhere else the plain build is the only one.
//
// The clones agree bit for bit because the build forbids contraction to fused multiply-adds.
// A region outlined by OpenMP does not inherit the clones: keep pragmas out of such functions.
#pragma once

#include <cstdint>  // defines __GLIBC__ where there is glibc

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__) && \
    !defined(LATINO_SINGLE_TARGET)
#define LATINO_HAS_CLONES 1
#define LATINO_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define LATINO_CLONES
#endif
