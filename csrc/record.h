// Record: a Python object with what one forward of one layer contributes to the penalty. The counterpart of
// Record in ops/arguments.py, whose attributes it has; they become Python objects when somebody reads them.

#pragma once

#include <pybind11/pybind11.h>

#include "nodes.h"

namespace jumpstart {

struct Record {
  at::Tensor slack_sums, extrema;  // without a gradient until they are exposed
  NodePointer node;                // null: nothing is differentiable
  int64_t units, points;           // points: 0 if the input was empty
  double margin;
  bool exposed;  // whether Python has seen slack_sums or extrema

  JumpstartActivationBackward* layer() const { return static_cast<JumpstartActivationBackward*>(node.get()); }
  // Makes slack_sums and extrema differentiable. Releases the interpreter: a backward that uses the node may
  // wait for it.
  void expose();
};

// Defines the Python type in a module.
void define_record(pybind11::module& module);

pybind11::object wrap(Record record);
// Null if it is another object.
Record* record_of(PyObject* object);

}  // namespace jumpstart
