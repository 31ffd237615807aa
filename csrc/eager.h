// The operators for eager code, without the dispatcher and its Python layers: thin networks spend most of
// their time on call overhead.

#pragma once

#include <pybind11/pybind11.h>

namespace jumpstart {

// Adds `jumpstart_activation` and `penalty` to the extension; ops/native.py describes them. Both return None
// if the operator has to be called instead: a mode, transform or subclass must see the call, or the arguments
// are not supported here.
void define_eager(pybind11::module& module);

}  // namespace jumpstart
