#pragma once

#include <pybind11/pybind11.h>

namespace latino::binding {

void define_operator_calls(pybind11::module_& m);  // bindings_cpu_operators.cpp

}  // namespace latino::binding
