// The heavy loops for one instruction set: included by rows.cpp once for each, with LATINO_TARGET
// the name of a namespace of its own. No include guard; what it uses was included before.

#ifndef LATINO_TEXT
#define LATINO_TEXT_OF(name) #name
#define LATINO_TEXT(name) LATINO_TEXT_OF(name)
#endif

namespace latino::cpu::LATINO_TARGET {
namespace {

#include "cpu/lanes.h"
// In this order: each uses the ones above.
#include "cpu/butterflies.h"
#include "cpu/normal_lanes.h"
#include "cpu/fft_rows.h"
#include "cpu/fft_columns.h"
#include "cpu/alias_columns.h"
#include "cpu/operator_loops.h"

}  // namespace

extern const Loops kLoops;
const Loops kLoops{LATINO_TEXT(LATINO_TARGET), kLanes, &fill_tile, &forward_rows,
                   &fourier_columns, &alias_forward, &alias_fold, &alias_inverse, &inverse_rows,
                   &product_columns, &spectrum_columns, &complex_forward_rows, &kspace_columns,
                   &complex_inverse_rows};

}  // namespace latino::cpu::LATINO_TARGET
