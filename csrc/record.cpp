#include "record.h"

#include <structmember.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstddef>
#include <new>
#include <utility>

namespace jumpstart {

void Record::expose() {
  if (exposed) return;
  if (node) {
    const pybind11::gil_scoped_release released;
    const std::lock_guard<std::mutex> lock(layer()->mutex());
    if (exposed) return;
    extrema = extrema.variable_data();  // the node keeps the other
    layer()->expose(slack_sums, extrema);
    exposed = true;
  }
  exposed = true;
}

namespace {

// Without pybind11's registry of instances, which takes as long as all else that a layer does in Python.
struct RecordObject {
  PyObject_HEAD Record record;
};

PyTypeObject* type = nullptr;

Record& of(PyObject* self) { return reinterpret_cast<RecordObject*>(self)->record; }

void deallocate(PyObject* self) {
  PyTypeObject* const type_of_self = Py_TYPE(self);
  of(self).~Record();
  type_of_self->tp_free(self);
  Py_DECREF(type_of_self);
}

template <at::Tensor Record::* tensor>
PyObject* get_tensor(PyObject* self, void*) {
  HANDLE_TH_ERRORS
  of(self).expose();
  return THPVariable_Wrap(of(self).*tensor);
  END_HANDLE_TH_ERRORS
}

template <int64_t Record::* number>
PyObject* get_integer(PyObject* self, void*) {
  return PyLong_FromLongLong(of(self).*number);
}

PyObject* get_margin(PyObject* self, void*) { return PyFloat_FromDouble(of(self).margin); }

PyGetSetDef attributes[] = {
    {"slack_sums", get_tensor<&Record::slack_sums>, nullptr, "[2, 5]", nullptr},
    {"extrema", get_tensor<&Record::extrema>, nullptr, "[2, C + P], maxima then minima", nullptr},
    {"units", get_integer<&Record::units>, nullptr, "C", nullptr},
    {"points", get_integer<&Record::points>, nullptr, "P, or 0 if the input was empty", nullptr},
    {"margin", get_margin, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyType_Slot slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(deallocate)}, {Py_tp_getset, attributes}, {0, nullptr}};

PyType_Spec specification = {"jumpstart_kernels._native.Record", sizeof(RecordObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace

void define_record(pybind11::module& module) {
  auto object = pybind11::reinterpret_steal<pybind11::object>(PyType_FromSpec(&specification));
  if (!object) throw pybind11::error_already_set();
  type = reinterpret_cast<PyTypeObject*>(object.inc_ref().ptr());  // also for those who delete the attribute
  module.attr("Record") = object;
}

pybind11::object wrap(Record record) {
  PyObject* const self = type->tp_alloc(type, 0);
  if (self == nullptr) throw pybind11::error_already_set();
  new (&of(self)) Record(std::move(record));
  return pybind11::reinterpret_steal<pybind11::object>(self);
}

Record* record_of(PyObject* object) { return Py_TYPE(object) == type ? &of(object) : nullptr; }

}  // namespace jumpstart
